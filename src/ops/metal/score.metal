// The scores of the evict methods, see lil-ops.h: score_step, score_prompt, score_add, score_window,
// new_slots.

#include "score-block.h"

static inline lil_score_job lil_score_job_of(
        constant lil_metal_kargs_evict & args, device const char * k, device const char * sinks, int strm, int i_kv) {
    lil_score_job job = lil_score_job_init();

    job.k       = k + (uint64_t) strm*args.nb_k2 + i_kv*args.size_k;
    job.nb_k1   = args.nb_k1;
    job.n_embd  = args.n_embd;
    job.nb_q0   = args.nb_q0;
    job.nb_q1   = args.nb_q1;
    job.n_group = args.n_group;
    job.n_ring  = args.n_ring;
    job.sinks   = args.has_sinks ? (device const float *) sinks + i_kv*args.n_group : nullptr;
    job.scale   = args.scale;
    job.softcap = args.softcap;

    return job;
}

// Grid: [n_head_kv, n_steps]. Threadgroup memory: LIL_METAL_SCORE_SHMEM(N, n_embd) floats.
template <int N>
kernel void kernel_lil_score_step(
        constant lil_metal_kargs_evict & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * q     [[buffer(3)]],
        device const char * k     [[buffer(4)]],
        device       char * pos   [[buffer(5)]],
        device const char * steps [[buffer(6)]],
        device const char * sinks [[buffer(7)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    const int i_kv   = tgpig.x;
    const int i_step = tgpig.y;

    device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);

    const int strm = step[LIL_METAL_STEP_STREAM];
    const int base = step[LIL_METAL_STEP_BEFORE] - step[LIL_METAL_STEP_EVICT]; // the first new slot
    const int own  = base + step[LIL_METAL_STEP_NEW] - 1;                      // the query's

    device float * x = (device float *) (dst + (uint64_t) strm*args.nb_x2 + i_kv*args.nb_x1);
    device float * p = (device float *) (pos + (uint64_t) strm*args.nb_p2 + i_kv*args.nb_p1);

    // by the threads that add to them
    if (tiitg%LIL_SCORE_LANES == 0) {
        for (int j = tiitg/LIL_SCORE_LANES; j <= own; j += t.ntg/LIL_SCORE_LANES) {
            if (j >= base || args.last) {
                x[j] = 0.0f;
            }
            if (j >= base) {
                p[j] = (float) (step[LIL_METAL_STEP_POS] + j - base);
            }
        }
    }

    lil_score_job job = lil_score_job_of(args, k, sinks, strm, i_kv);

    job.n_keys = own + 1;
    job.base   = own;
    job.q      = q + i_step*args.nb_q2 + (uint64_t) i_kv*args.n_group*args.nb_q0;

    for (int r0 = 0; r0 < args.n_group; r0 += N) {
        lil_score_rows<N>(job, r0, args.n_group, x, 0, shmem, t);
    }
}

typedef decltype(kernel_lil_score_step<1>) kernel_lil_score_step_t;

template LIL_HOST_NAME("kernel_lil_score_step_1") kernel kernel_lil_score_step_t kernel_lil_score_step<1>;
template LIL_HOST_NAME("kernel_lil_score_step_2") kernel kernel_lil_score_step_t kernel_lil_score_step<2>;
template LIL_HOST_NAME("kernel_lil_score_step_4") kernel kernel_lil_score_step_t kernel_lil_score_step<4>;
template LIL_HOST_NAME("kernel_lil_score_step_8") kernel kernel_lil_score_step_t kernel_lil_score_step<8>;

// Grid: [n_part, n_head_kv, n_steps]: each part takes every n_part-th block of rows. Threadgroup memory:
// LIL_METAL_SCORE_SHMEM(LIL_METAL_SCORE_ROWS, n_embd) floats.
kernel void kernel_lil_score_prompt(
        constant lil_metal_kargs_evict & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * q     [[buffer(2)]],
        device const char * k     [[buffer(3)]],
        device const char * steps [[buffer(4)]],
        device const char * sinks [[buffer(5)]],
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

    const int base = step[LIL_METAL_STEP_BEFORE] - step[LIL_METAL_STEP_EVICT];

    device float * sum = (device float *) (dst + i_step*args.nb_a3 + i_part*args.nb_a2 + i_kv*args.nb_a1);

    if (tiitg%LIL_SCORE_LANES == 0) {
        for (int j = tiitg/LIL_SCORE_LANES; j < args.n_kv; j += t.ntg/LIL_SCORE_LANES) {
            sum[j] = 0.0f;
        }
    }

    lil_score_job job = lil_score_job_of(args, k, sinks, step[LIL_METAL_STEP_STREAM], i_kv);

    job.n_keys = base + args.n_query;
    job.base   = base;
    job.q      = q + i_step*args.nb_q2 + (uint64_t) i_kv*args.n_group*args.nb_q0;

    const int n_rows = args.n_query*args.n_group;

    for (int r0 = i_part*LIL_METAL_SCORE_ROWS; r0 < n_rows; r0 += args.n_part*LIL_METAL_SCORE_ROWS) {
        lil_score_rows<LIL_METAL_SCORE_ROWS>(job, r0, n_rows, sum, 0, shmem, t);
    }
}

// Grid: [n_head_kv, n_steps].
kernel void kernel_lil_score_add(
        constant lil_metal_kargs_evict & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * part  [[buffer(3)]],
        device       char * pos   [[buffer(4)]],
        device const char * steps [[buffer(5)]],
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const int i_kv   = tgpig.x;
    const int i_step = tgpig.y;

    device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);

    const int strm = step[LIL_METAL_STEP_STREAM];
    const int base = step[LIL_METAL_STEP_BEFORE] - step[LIL_METAL_STEP_EVICT];
    const int n    = base + step[LIL_METAL_STEP_NEW];

    device float       * x = (device float *) (dst + (uint64_t) strm*args.nb_x2 + i_kv*args.nb_x1);
    device float       * p = (device float *) (pos + (uint64_t) strm*args.nb_p2 + i_kv*args.nb_p1);
    device const float * a = (device const float *) (part + i_step*args.nb_a3 + i_kv*args.nb_a1);

    for (int j = tiitg; j < n; j += ntg.x) {
        float sum = j < base ? x[j] : 0.0f;
        for (int i = 0; i < args.n_part; ++i) {
            sum += a[i*(args.nb_a2/sizeof(float)) + j];
        }
        x[j] = sum;

        if (j >= base) {
            p[j] = (float) (step[LIL_METAL_STEP_POS] + j - base);
        }
    }
}

// Grid: [n_head_kv, n_steps]. Threadgroup memory: LIL_METAL_SCORE_SHMEM(LIL_METAL_SCORE_ROWS, n_embd) floats.
kernel void kernel_lil_score_window(
        constant lil_metal_kargs_evict & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * win   [[buffer(3)]],
        device const char * k     [[buffer(4)]],
        device const char * pos   [[buffer(5)]],
        device const char * steps [[buffer(6)]],
        device const char * sinks [[buffer(7)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    const int i_kv = tgpig.x;

    device const int32_t * step = (device const int32_t *) (steps + tgpig.y*args.nb_s1);

    const int strm   = step[LIL_METAL_STEP_STREAM];
    const int n_rows = step[LIL_METAL_STEP_WIN]*args.n_group;

    lil_score_job job = lil_score_job_of(args, k, sinks, strm, i_kv);

    job.n_keys   = step[LIL_METAL_STEP_BEFORE];
    job.q        = win + (uint64_t) strm*args.nb_q2 + (uint64_t) i_kv*args.n_group*args.nb_q0;
    job.ring_pos = step[LIL_METAL_STEP_POS] - step[LIL_METAL_STEP_WIN];
    job.by_pos   = true;
    job.pos      = (device const float *) (pos + (uint64_t) strm*args.nb_p2 + i_kv*args.nb_p1);
    job.pos0     = (float) job.ring_pos;

    device float * x = (device float *) (dst + (uint64_t) strm*args.nb_x2 + i_kv*args.nb_x1);

    for (int r0 = 0; r0 < n_rows; r0 += LIL_METAL_SCORE_ROWS) {
        lil_score_rows<LIL_METAL_SCORE_ROWS>(job, r0, n_rows, x, 0, shmem, t);
    }
}

// Grid: [n_head_kv, n_steps].
kernel void kernel_lil_new_slots(
        constant lil_metal_kargs_evict & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device       char * pos   [[buffer(3)]],
        device const char * steps [[buffer(4)]],
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    device const int32_t * step = (device const int32_t *) (steps + tgpig.y*args.nb_s1);

    const int strm = step[LIL_METAL_STEP_STREAM];
    const int base = step[LIL_METAL_STEP_BEFORE] - step[LIL_METAL_STEP_EVICT];

    device float * x = (device float *) (dst + (uint64_t) strm*args.nb_x2 + tgpig.x*args.nb_x1) + base;
    device float * p = (device float *) (pos + (uint64_t) strm*args.nb_p2 + tgpig.x*args.nb_p1) + base;

    for (int i = tiitg; i < step[LIL_METAL_STEP_NEW]; i += ntg.x) {
        x[i] = 0.0f;
        p[i] = (float) (step[LIL_METAL_STEP_POS] + i);
    }
}
