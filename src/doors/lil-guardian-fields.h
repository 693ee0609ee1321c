#pragma once

// lil-guardian-fields.h: Guardian's options and the words for its actions, for all that read, check or write them.

#include "lil-notation.h"

#define FIELD(name) offsetof(lil_guardian_params, name)

// clang-format off
static const std::vector<lil_word> LIL_GUARDIAN_ACTIONS = {
    { "stop", LIL_GUARDIAN_STOP }, { "close_think", LIL_GUARDIAN_CLOSE_THINK }, { "flag", LIL_GUARDIAN_FLAG },
    { "widen", LIL_GUARDIAN_WIDEN },
};

// behind `action` may stand those of the alarms that follow, "widen+stop"
static const std::vector<lil_field> LIL_GUARDIAN_FIELDS = {
    { "every",     LIL_FIELD_U32,  FIELD(every),     1, INT32_MAX },
    { "threshold", LIL_FIELD_F64,  FIELD(threshold), 0, INT32_MAX },
    { "patience",  LIL_FIELD_U32,  FIELD(patience),  1, INT32_MAX },
    { "action",    LIL_FIELD_WORD, FIELD(action),    0, 0, LIL_GUARDIAN_ACTIONS },
    { "think_end", LIL_FIELD_TEXT, FIELD(think_end) },
    { "message",   LIL_FIELD_TEXT, FIELD(message) },
    { "grace",     LIL_FIELD_U32,  FIELD(grace),     0, INT32_MAX },
    { "rule",      LIL_FIELD_WORD, FIELD(rule),      0, 0,
            { { "paper", LIL_GUARDIAN_RULE_PAPER }, { "text", LIL_GUARDIAN_RULE_TEXT } } },
    { "widen",     LIL_FIELD_U32,  FIELD(widen),     2, INT32_MAX, { { "all", 0 } } },
};
// clang-format on

#undef FIELD

static inline const char * lil_guardian_action_word(lil_guardian_action action) {
    for (const auto & a : LIL_GUARDIAN_ACTIONS) {
        if (a.value == action) {
            return a.word;
        }
    }

    return "?";
}
