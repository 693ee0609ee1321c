// InfLLM: the attention that the tokens of the window receive, see lil-ops.h: infllm_score, infllm_score_prompt,
// infllm_score_add.

#include "score-block.h"

// Grid: [n_head_kv, n_steps]. Threadgroup memory: 2*n_group floats.
kernel void kernel_lil_infllm_score(
        constant lil_metal_kargs_infllm & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * work  [[buffer(3)]],
        device const char * list  [[buffer(4)]],
        device const char * steps [[buffer(5)]],
        device const char * sinks [[buffer(6)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const int i_kv = tgpig.x;

    if (!lil_is_first_of_stream(steps, args.nb_s1, tgpig.y)) {
        return;
    }

    const int strm = lil_get_stream(steps, args.nb_s1, tgpig.y);

    device float * score = (device float *) (dst + (uint64_t) strm*args.nb_x2 + i_kv*args.nb_x1);

    threadgroup float * sm = (threadgroup float *) shmem; // [2, n_group] maximum and 1/sum

    for (int i_step = tgpig.y; i_step < args.n_steps; ++i_step) {
        if (lil_get_stream(steps, args.nb_s1, i_step) != strm) {
            continue;
        }

        device const int32_t * entries = (device const int32_t *) (list + i_step*args.nb_l2 + i_kv*args.nb_l1);
        device const float   * x       = (device const float *) work + args.kq_offset +
                ((uint64_t) i_step*args.n_head + i_kv*args.n_group)*args.n_max;

        const int n     = entries[0];
        const int n_win = min(args.n_recent, n);

        // a simd-group to a query head
        for (int g = sgitg; g < args.n_group; g += ntg.x/32) {
            device const float * xg = x + (uint64_t) g*args.n_max;

            float m = LIL_NEG;
            for (int j = tiisg; j < n; j += 32) {
                m = max(m, xg[j]);
            }

            const float sink = lil_get_sink(sinks, args.has_sinks, i_kv*args.n_group + g);
            m = max(simd_max(m), sink);

            float s = 0.0f;
            for (int j = tiisg; j < n; j += 32) {
                s += exp(xg[j] - m);
            }
            s = simd_sum(s) + (args.has_sinks ? exp(sink - m) : 0.0f);

            if (tiisg == 0) {
                sm[2*g + 0] = m;
                sm[2*g + 1] = 1.0f/s;
            }
        }

        if (tiitg == 0) {
            score[entries[n]] = 0.0f; // the current token's
        }

        threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);

        for (int j = n - n_win + tiitg; j < n; j += ntg.x) {
            float got = 0.0f;
            for (int g = 0; g < args.n_group; ++g) {
                got += exp(x[(uint64_t) g*args.n_max + j] - sm[2*g])*sm[2*g + 1];
            }
            score[entries[1 + j]] += got;
        }

        threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    }
}

// the rank where the partial sums begin
static inline int lil_infllm_first(device const int32_t * step, int n_recent) {
    return max(0, step[LIL_METAL_SEL_N] - step[LIL_METAL_SEL_NEW] - n_recent + 1);
}

// Grid: [n_part, n_head_kv, n_steps]: each part takes every n_part-th block of rows. Threadgroup memory:
// LIL_METAL_SCORE_SHMEM(LIL_METAL_SCORE_ROWS, n_embd) floats.
kernel void kernel_lil_infllm_score_prompt(
        constant lil_metal_kargs_infllm & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * q     [[buffer(2)]],
        device const char * k     [[buffer(3)]],
        device const char * cells [[buffer(4)]],
        device const char * steps [[buffer(5)]],
        device const char * sinks [[buffer(6)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    const int i_part = tgpig.x;
    const int i_kv   = tgpig.y;
    const int i_step = tgpig.z;

    device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);

    device float * sum = (device float *) (dst + i_step*args.nb_a3 + i_part*args.nb_a2 + i_kv*args.nb_a1);

    for (int i = tiitg; i < args.n_recent + args.n_query; i += t.ntg) {
        sum[i] = 0.0f;
    }

    threadgroup_barrier(mem_flags::mem_device);

    lil_score_job job = lil_score_job_init();

    job.k        = k + (uint64_t) step[LIL_METAL_SEL_STREAM]*args.nb_k2 + i_kv*args.size_k;
    job.nb_k1    = args.nb_k1;
    job.slots    = (device const int32_t *) (cells + i_step*args.nb_l2) + 1;
    job.n_embd   = args.n_embd;
    job.n_keys   = step[LIL_METAL_SEL_N];
    job.q        = q + (uint64_t) i_step*args.n_query*args.nb_q2 + i_kv*args.n_group*args.nb_q1;
    job.nb_q0    = args.nb_q1;
    job.nb_q1    = args.nb_q2;
    job.n_group  = args.n_group;
    job.base     = step[LIL_METAL_SEL_N] - step[LIL_METAL_SEL_NEW];
    job.n_window = args.n_recent;
    job.sinks    = args.has_sinks ? (device const float *) sinks + i_kv*args.n_group : nullptr;
    job.scale    = args.scale;
    job.softcap  = args.softcap;

    const int n_rows = args.n_query*args.n_group;
    const int first  = lil_infllm_first(step, args.n_recent);

    for (int r0 = i_part*LIL_METAL_SCORE_ROWS; r0 < n_rows; r0 += args.n_part*LIL_METAL_SCORE_ROWS) {
        lil_score_rows<LIL_METAL_SCORE_ROWS>(job, r0, n_rows, sum, first, shmem, t);
    }
}

// Grid: [n_head_kv, n_steps].
kernel void kernel_lil_infllm_score_add(
        constant lil_metal_kargs_infllm & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * part  [[buffer(3)]],
        device const char * cells [[buffer(4)]],
        device const char * steps [[buffer(5)]],
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const int i_kv = tgpig.x;

    if (!lil_is_first_of_stream(steps, args.nb_s1, tgpig.y)) {
        return;
    }

    const int strm = lil_get_stream(steps, args.nb_s1, tgpig.y);

    device float * score = (device float *) (dst + (uint64_t) strm*args.nb_x2 + i_kv*args.nb_x1);

    for (int i_step = tgpig.y; i_step < args.n_steps; ++i_step) {
        if (lil_get_stream(steps, args.nb_s1, i_step) != strm) {
            continue;
        }

        device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);
        device const int32_t * cell = (device const int32_t *) (cells + i_step*args.nb_l2) + 1;
        device const float   * sum  = (device const float *) (part + i_step*args.nb_a3 + i_kv*args.nb_a1);

        const int n     = step[LIL_METAL_SEL_N];
        const int first = lil_infllm_first(step, args.n_recent);

        for (int r = first + tiitg; r < n; r += ntg.x) {
            float x = r < n - step[LIL_METAL_SEL_NEW] ? score[cell[r]] : 0.0f;
            for (int i = 0; i < args.n_part; ++i) {
                x += sum[i*(args.nb_a2/sizeof(float)) + r - first];
            }
            score[cell[r]] = x;
        }

        threadgroup_barrier(mem_flags::mem_device);
    }
}
