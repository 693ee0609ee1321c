#include "lil.h"

const char * lil_version(void) {
    return LIL_VERSION;
}
