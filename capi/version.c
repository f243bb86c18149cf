#include "mooncake.h"

/* The one place that names the version for C; a test holds it against pyproject.toml. */
const char *mc_version(void) { return "0.1.0"; }

const char *mc_status_name(int status) {
    switch (status) {
    case MC_OK: return "MC_OK";
    case MC_EINVAL: return "MC_EINVAL";
    case MC_EHANDLE: return "MC_EHANDLE";
    case MC_ENOTFOUND: return "MC_ENOTFOUND";
    case MC_EADDR: return "MC_EADDR";
    case MC_EOVERLAP: return "MC_EOVERLAP";
    case MC_EFULL: return "MC_EFULL";
    case MC_ETIMEDOUT: return "MC_ETIMEDOUT";
    case MC_EDEADLINE: return "MC_EDEADLINE";
    case MC_ECANCELED: return "MC_ECANCELED";
    case MC_EPEER: return "MC_EPEER";
    case MC_ERESTARTED: return "MC_ERESTARTED";
    case MC_EREJECTED: return "MC_EREJECTED";
    case MC_EFENCED: return "MC_EFENCED";
    case MC_EDEVICE: return "MC_EDEVICE";
    case MC_EUNSUPPORTED: return "MC_EUNSUPPORTED";
    case MC_EFORKED: return "MC_EFORKED";
    case MC_EINTERNAL: return "MC_EINTERNAL";
    case MC_ENOPAGES: return "MC_ENOPAGES";
    case MC_EPAGE: return "MC_EPAGE";
    }
    return "MC_UNKNOWN";
}
