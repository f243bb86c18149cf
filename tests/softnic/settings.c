/* "key=value,key=value,mlx5_1.key=value": limits of a process and live settings. */
#include "settings.h"

#include <infiniband/verbs.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct limits limits = {
    .ndev = 2, .max_qp = 60000, .max_qp_wr = 32768, .max_sge = 30, .max_sge_rd = 30,
    .max_cq = 60000, .max_cqe = 4194303, .max_mr = MAX_MRS, .max_pd = 65536, .max_reads = 16,
    .max_inline = 1024, .max_mr_size = UINT64_MAX, .memlock = UINT64_MAX, .spin = 5,
};

enum unit { COUNT, MICROSECONDS, MILLISECONDS, GIGABITS, WORD };

static const struct key {
    const char *name;
    enum setting which;
    enum unit unit;
    uint64_t initial;
    const char *words; /* of WORD, in the order of their numbers */
} keys[] = {
    {"mode", SET_MODE, WORD, MODE_COPY, "copy null"},
    {"rate", SET_RATE, COUNT, 0, NULL},
    {"bandwidth", SET_BANDWIDTH, GIGABITS, 0, NULL},
    {"latency", SET_LATENCY, MICROSECONDS, 0, NULL},
    {"burst", SET_BURST, MICROSECONDS, 500000, NULL},
    {"retry", SET_RETRY, MILLISECONDS, 0, NULL},
    {"port", SET_PORT, WORD, 1, "down up"},
    {"gids", SET_GIDS, WORD, GIDS_V2_AT_3, "v2at3 v2at1 v1 none"},
    {"gidnet", SET_GID_NET, COUNT, 0, NULL},
    {"link", SET_LINK, WORD, LINK_ROCE, "roce ib"},
    {"freeze", SET_FREEZE, COUNT, 0, NULL},
    {"silent", SET_SILENT, COUNT, 0, NULL},
    {"unreachable", SET_UNREACHABLE, COUNT, 0, NULL},
    {"late", SET_LATE, MILLISECONDS, 0, NULL},
    {"fail_at", SET_FAIL_AT, COUNT, 0, NULL},
    {"fail_for", SET_FAIL_FOR, COUNT, 1, NULL},
    {"fail_status", SET_FAIL_STATUS, WORD, IBV_WC_RETRY_EXC_ERR,
     "success loc_len loc_qp_op loc_eec_op loc_prot flush mw_bind bad_resp loc_access rem_inv_req"
     " rem_access rem_op retry rnr_retry loc_rdd rem_inv_rd rem_abort inv_eecn inv_eec_state fatal"
     " timeout general"},
    {"fail_qp", SET_FAIL_QP, COUNT, 0, NULL},
    {"fatal", SET_FATAL, COUNT, 0, NULL},
    {"dead_gids", SET_DEAD_GIDS, COUNT, 0, NULL},
    {"dead_gid_errno", SET_DEAD_GID_ERRNO, COUNT, EINVAL, NULL},
};
enum { KEYS = sizeof keys / sizeof *keys };

static const struct {
    const char *name;
    int *value;
    uint64_t *large;
} limit_keys[] = {
    {"ndev", &limits.ndev, NULL},
    {"host", &limits.host, NULL},
    {"max_qp", &limits.max_qp, NULL},
    {"max_qp_wr", &limits.max_qp_wr, NULL},
    {"max_sge", &limits.max_sge, NULL},
    {"max_sge_rd", &limits.max_sge_rd, NULL},
    {"max_cq", &limits.max_cq, NULL},
    {"max_cqe", &limits.max_cqe, NULL},
    {"max_mr", &limits.max_mr, NULL},
    {"max_pd", &limits.max_pd, NULL},
    {"max_reads", &limits.max_reads, NULL},
    {"max_inline", &limits.max_inline, NULL},
    {"denied", &limits.denied, NULL},
    {"dmabuf", &limits.dmabuf, NULL},
    {"pin", &limits.pin, NULL},
    {"kernel_copy", &limits.kernel_copy, NULL},
    {"spin", &limits.spin, NULL},
    {"numa", &limits.numa, NULL},
    {"max_mr_size", NULL, &limits.max_mr_size},
    {"memlock", NULL, &limits.memlock},
};
enum { LIMIT_KEYS = sizeof limit_keys / sizeof *limit_keys };

/* A number with k, M or G behind it. */
static bool parse_number(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    if (end == text || *value < 0)
        return false;
    double factor = *end == 'k' ? 1e3 : *end == 'M' ? 1e6 : *end == 'G' ? 1e9 : 1;
    *value *= factor;
    return end[factor != 1] == 0;
}

static bool parse_word(const char *words, const char *text, uint64_t *value)
{
    size_t length = strlen(text);
    *value = 0;
    for (const char *word = words; *word; (*value)++) {
        size_t n = strcspn(word, " ");
        if (n == length && !strncmp(word, text, n))
            return true;
        word += n + (word[n] == ' ');
    }
    return false;
}

static bool parse_value(const struct key *key, const char *text, uint64_t *value)
{
    static const double scale[] = {1, 1e3, 1e6, 1e9};
    double number;
    if (key->unit == WORD)
        return parse_word(key->words, text, value);
    if (!parse_number(text, &number))
        return false;
    *value = (uint64_t)(number * scale[key->unit] + 0.5);
    return true;
}

const char *setting_apply(int port, const char *entry)
{
    const char *text = strchr(entry, '=');
    for (int i = 0; text && i < KEYS; i++) {
        const struct key *key = &keys[i];
        uint64_t value;
        if (strncmp(key->name, entry, text - entry) || key->name[text - entry])
            continue;
        if (!parse_value(key, text + 1, &value))
            return "no such value";
        atomic_store(&fabric->ports[port].settings[key->which], value);
        if (key->which == SET_FAIL_AT)
            atomic_store(&fabric->ports[port].counted, 0);
        return NULL;
    }
    return "no such setting";
}

void settings_reset(int port)
{
    for (int i = 0; i < KEYS; i++)
        atomic_store(&fabric->ports[port].settings[keys[i].which], keys[i].initial);
    settings_changed(port);
}

/* Work requests may complete inside ibv_post_send only if nothing needs a clock or a fault. */
void settings_changed(int index)
{
    static const enum setting slow[] = {
        SET_RATE, SET_BANDWIDTH, SET_LATENCY, SET_FREEZE, SET_SILENT,
        SET_UNREACHABLE, SET_LATE, SET_FAIL_AT, SET_FATAL,
    };
    struct shared_port *port = &fabric->ports[index];
    bool ok = setting(port, SET_MODE) == MODE_NULL && setting(port, SET_PORT) == 1;
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++)
        ok = ok && setting(port, slow[i]) == 0;
    atomic_store(&port->inline_ok, ok);
    atomic_store(&port->paced, setting(port, SET_RATE) || setting(port, SET_BANDWIDTH) ||
                                   setting(port, SET_LATENCY));
}

void settings_print(int port)
{
    static const double scale[] = {1, 1e3, 1e6, 1e9};
    for (int i = 0; i < KEYS; i++) {
        uint64_t value = setting(&fabric->ports[port], keys[i].which);
        if (keys[i].unit != WORD) {
            printf(" %s=%g", keys[i].name, value / scale[keys[i].unit]);
            continue;
        }
        const char *word = keys[i].words;
        for (; value; value--)
            word += strcspn(word, " ") + 1;
        printf(" %s=%.*s", keys[i].name, (int)strcspn(word, " "), word);
    }
    printf("\n");
}

static bool apply_limit(const char *entry)
{
    const char *text = strchr(entry, '=');
    for (int i = 0; text && i < LIMIT_KEYS; i++) {
        double number;
        if (strncmp(limit_keys[i].name, entry, text - entry) || limit_keys[i].name[text - entry])
            continue;
        if (!parse_number(text + 1, &number))
            return false;
        if (limit_keys[i].large)
            *limit_keys[i].large = (uint64_t)number;
        else
            *limit_keys[i].value = (int)number;
        return true;
    }
    return false;
}

static void refuse(const char *entry, const char *why)
{
    fprintf(stderr, "softnic: SOFTNIC: %s: %s\n", entry, why);
    exit(2);
}

static bool known_live(const char *entry)
{
    const char *dot = strchr(entry, '.'), *equals = strchr(entry, '=');
    const char *name = dot && equals && dot < equals ? dot + 1 : entry;
    for (int i = 0; equals && i < KEYS; i++)
        if (!strncmp(keys[i].name, name, equals - name) && !keys[i].name[equals - name])
            return true;
    return false;
}

/* Calls `each` with every entry of SOFTNIC. */
static void entries(void (*each)(const char *))
{
    const char *all = getenv("SOFTNIC");
    char *copy = strdup(all ? all : ""), *rest = copy;
    for (char *entry; (entry = strsep(&rest, ", "));)
        if (*entry)
            each(entry);
    free(copy);
}

static void read_limit(const char *entry)
{
    if (!apply_limit(entry) && !known_live(entry))
        refuse(entry, "no such setting, or not a number");
}

void settings_read_limits(void)
{
    entries(read_limit);
    if (limits.ndev > MAX_DEVICES || limits.host >= MAX_HOSTS)
        refuse("ndev, host", "at most 16 devices, hosts 0 to 14");
}

static void apply_live(const char *entry)
{
    const char *dot = strchr(entry, '.'), *equals = strchr(entry, '=');
    int only = -1;
    if (!known_live(entry))
        return;
    if (dot && dot < equals) {
        if (sscanf(entry, "mlx5_%d.", &only) != 1 || only < 0 || only >= limits.ndev)
            refuse(entry, "no such device");
        entry = dot + 1;
    }
    for (int d = 0; d < limits.ndev; d++) {
        int port = limits.host * MAX_DEVICES + d;
        const char *wrong = only < 0 || only == d ? setting_apply(port, entry) : NULL;
        if (wrong)
            refuse(entry, wrong);
        settings_changed(port);
    }
}

void settings_apply_environment(void)
{
    entries(apply_live);
}

void port_wake(int port)
{
    for (int i = 0; i < MAX_PROCS; i++)
        if (atomic_load(&fabric->procs[i].pid)) {
            struct bell *bell = &fabric->procs[i].bells[port % MAX_DEVICES];
            atomic_fetch_add(&bell->look, 1);
            bell_ring(bell);
        }
}

void port_raise(int index, uint32_t type)
{
    struct shared_port *port = &fabric->ports[index];
    uint32_t at = atomic_load(&port->events);
    port->event[at % MAX_EVENTS].type = type;
    atomic_store(&port->events, at + 1);
    port_wake(index);
}
