/* Runs one test: main NAME. */
#include "kit.h"

enum { MOST = 100 };

static struct {
    const char *name, *settings;
    void (*run)(void);
} tests[MOST];
static int count;

void add_test(const char *name, const char *settings, void (*run)(void))
{
    CHECK(count < MOST);
    tests[count].name = name;
    tests[count].settings = settings;
    tests[count++].run = run;
}

int main(int argc, char **argv)
{
    for (int i = 0; i < count && argc == 2; i++) {
        if (strcmp(tests[i].name, argv[1]))
            continue;
        setenv("SOFTNIC", tests[i].settings, 1);
        tests[i].run();
        return 0;
    }
    fprintf(stderr, "usage: %s NAME\n", argv[0]);
    for (int i = 0; i < count; i++)
        fprintf(stderr, "    %s\n", tests[i].name);
    return 2;
}
