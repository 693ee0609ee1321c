// The cost of lil_lz77_feed(): microseconds a token and bytes of memory a byte, for 128k tokens of 4 bytes.
//
//     cc -O2 -std=c11 -I src/guardian benchmarks/bench_lz77.c src/guardian/lz77.c -o bench_lz77
//     bench_lz77 [FILE]
//
// Each text is fed token by token, as the Guardian does; the best of 3 runs counts.

#include "../src/guardian/lz77.h"
#include "../tests/c/lz77-common.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define N_BYTES (512 * 1024)
#define N_TOKEN 4
#define N_RUNS  3

// seconds; C11 has no monotonic clock
static double bench_time(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static void bench(const char * name, const uint8_t * text) {
    double   best   = 1e9;
    uint64_t memory = 0;

    for (int run = 0; run < N_RUNS; run++) {
        struct lil_lz77 * lz = lil_lz77_init();
        if (lz == NULL) {
            exit(1);
        }

        const double t = bench_time();
        for (size_t i = 0; i < N_BYTES; i += N_TOKEN) {
            if (!lil_lz77_feed(lz, text + i, N_TOKEN)) {
                exit(1);
            }
        }
        const double elapsed = bench_time() - t;

        best   = elapsed < best ? elapsed : best;
        memory = lil_lz77_memory(lz);
        lil_lz77_free(lz);
    }

    printf("%-20s  %6.3f us per token  %6.3f us per byte  %5.1f bytes of memory per byte\n", name,
            best * 1e6 / (N_BYTES / N_TOKEN), best * 1e6 / N_BYTES, (double) memory / N_BYTES);
}

int main(int argc, char ** argv) {
    static uint8_t text[N_BYTES];
    struct rng     rng = { 1 };

    printf("%d tokens of %d bytes\n", N_BYTES / N_TOKEN, N_TOKEN);

    if (argc > 1) {
        FILE * file = fopen(argv[1], "rb");
        if (file == NULL || fread(text, 1, N_BYTES, file) != N_BYTES) {
            fprintf(stderr, "%s: not a file of at least %d bytes\n", argv[1], N_BYTES);
            return 1;
        }
        fclose(file);
        bench("file", text);
    }

    text_prose(&rng, text, N_BYTES);
    bench("prose", text);
    text_loop(text, N_BYTES, 4000);
    bench("loop of 4000", text);
    text_loop(text, N_BYTES, 43);
    bench("loop of 43", text);
    text_sentences(&rng, text, N_BYTES);
    bench("six sentences", text);
    text_template(&rng, text, N_BYTES);
    bench("template", text);
    text_random(&rng, text, N_BYTES, 256);
    bench("random, 256 symbols", text);
    text_random(&rng, text, N_BYTES, 2);
    bench("random, 2 symbols", text);

    return 0;
}
