// Tests what rule "text" does where memory runs out: each of its allocations fails in turn.
//
//     test-text-rule-memory
//
// Takes the sources in, so that their allocations can be counted and made to fail. Link nothing else of ours.

#undef NDEBUG

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// before the sources
#include "failing-malloc.h"

#include "../../src/guardian/lz77.c"
#include "../../src/guardian/text-fold.c"
#include "../../src/guardian/text-rule.c"
#include "../../src/guardian/text-words.c"
#undef malloc
#undef calloc
#undef realloc
#undef free

static int at; // the allocation that fails

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: failed: %s (allocation %d)\n", __FILE__, __LINE__, #x, at); \
            exit(1); \
        } \
    } while (0)

#define N_STRETCHES 40 // a streak begins anew after 32

// A loop that counts, in stretches that grow longer; the streak begins at the third check. False: out of memory.
static bool run(struct lil_text_rule * rule, int from, int to) {
    for (int i = from; i < to; i++) {
        for (int line = 0; line < 8 + i / 4; line++) {
            char      text[96];
            const int n = snprintf(text, sizeof(text), "%d. So there are %d of them, and we look again.\n", line, i);
            if (!lil_text_rule_feed(rule, text, (size_t) n)) {
                return false;
            }
        }
        lil_text_rule_check(rule, i < 2 ? 1e9 : 0.0, 20.0, 1);
    }

    return lil_text_rule_feed(rule, NULL, 0); // where a streak could not begin, this is the first to say so
}

static bool is_same(const struct lil_text_rule * a, const struct lil_text_rule * b) {
    const struct lil_text_stretch x = lil_text_rule_get(a), y = lil_text_rule_get(b);

    return x.n_bytes == y.n_bytes && x.own_growth == y.own_growth && x.age == y.age && x.alarm == y.alarm &&
            x.text_class == y.text_class;
}

static void test_feed(const struct lil_text_rule * want) {
    bool ok = false;

    for (at = 0; !ok; at++) {
        mem_fail                    = at;
        struct lil_text_rule * rule = lil_text_rule_init();
        ok                          = rule != NULL && run(rule, 0, N_STRETCHES);
        CHECK(ok == (mem_fail >= 0)); // none failed
        mem_fail = -1;

        if (rule != NULL && !ok) {
            CHECK(!lil_text_rule_feed(rule, "x", 1)); // until a reset
            lil_text_rule_check(rule, 0.0, 20.0, 1);
            CHECK(!lil_text_rule_feed(rule, "x", 1));
            lil_text_rule_reset(rule);
            CHECK(run(rule, 0, N_STRETCHES) && is_same(rule, want));
        }
        lil_text_rule_free(rule);
        CHECK(mem_now == lil_text_rule_memory(want));
    }

    printf("%d allocations\n", at - 1);
    CHECK(at > 20);
}

static void test_clone(const struct lil_text_rule * want) {
    struct lil_text_rule * rule = lil_text_rule_init();
    CHECK(rule != NULL && run(rule, 0, 20));

    const uint64_t         before = mem_now;
    struct lil_text_rule * copy   = NULL;

    for (at = 0; copy == NULL; at++) {
        mem_fail = at;
        copy     = lil_text_rule_clone(rule);
        CHECK((copy != NULL) == (mem_fail >= 0));
        mem_fail = -1;
        CHECK(copy != NULL || mem_now == before);
    }
    CHECK(at > 4);

    // in the middle of a stretch, and the copy outlives what it was made from
    CHECK(lil_text_rule_feed(rule, "and so ", 7) && lil_text_rule_feed(copy, "and so ", 7));
    struct lil_text_rule * second = lil_text_rule_clone(copy);
    CHECK(second != NULL);
    CHECK(run(copy, 20, N_STRETCHES) && !is_same(copy, rule));
    CHECK(run(rule, 20, N_STRETCHES) && is_same(copy, rule));
    lil_text_rule_free(rule);
    CHECK(run(second, 20, N_STRETCHES) && is_same(copy, second));

    lil_text_rule_free(copy);
    lil_text_rule_free(second);
    CHECK(mem_now == lil_text_rule_memory(want));
}

int main(void) {
    struct lil_text_rule * want = lil_text_rule_init();
    CHECK(want != NULL && run(want, 0, N_STRETCHES));
    CHECK(lil_text_rule_get(want).alarm && lil_text_rule_get(want).age > 0);
    CHECK(mem_now == lil_text_rule_memory(want));

    test_feed(want);
    test_clone(want);

    lil_text_rule_free(want);
    CHECK(mem_now == 0);

    printf("ok\n");

    return 0;
}
