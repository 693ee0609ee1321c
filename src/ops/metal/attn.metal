// Attention over a list, see lil-ops.h: attn and attn_join.

#include "lil-metal.h"

// lanes that share a row of K
#define LIL_ATTN_LANES 8

// Grid: [chunks of n_max, n_head_kv*n_part, n_steps]. A threadgroup takes LIL_METAL_ATTN_CHUNK entries of one list, for
// N query heads of one KV head: the logits of all entries, their softmax, then the sum over V. So each row is read once
// for the N heads.
//
// Threadgroup memory, in floats: max(N*n_embd, N*n_embd_v) queries, later results; N*LIL_METAL_ATTN_CHUNK logits, later
// probabilities; 2*N maxima and sums.
template <int N>
kernel void kernel_lil_attn(
        constant lil_metal_kargs_attn & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * q     [[buffer(2)]],
        device const char * k     [[buffer(3)]],
        device const char * v     [[buffer(4)]],
        device const char * list  [[buffer(5)]],
        device const char * steps [[buffer(6)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3  tgpig [[threadgroup_position_in_grid]],
        ushort tiitg [[thread_index_in_threadgroup]],
        ushort tiisg [[thread_index_in_simdgroup]],
        ushort sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg3 [[threads_per_threadgroup]]) {
    const int ntg = ntg3.x;

    const int i_chunk = tgpig.x;
    const int i_kv    = tgpig.y/args.n_part;
    const int i_first = tgpig.y%args.n_part*N; // first query head within the group
    const int i_step  = tgpig.z;

    device const int32_t * entries = (device const int32_t *) (list + i_step*args.nb_l2 + i_kv*args.nb_l1);
    device const int32_t * cells   = entries + 1 + i_chunk*LIL_METAL_ATTN_CHUNK;

    const int n = min(entries[0] - i_chunk*LIL_METAL_ATTN_CHUNK, LIL_METAL_ATTN_CHUNK);
    if (n <= 0) {
        return;
    }

    const int n_heads = min(args.n_group - i_first, N); // of these N
    const int i_head  = i_kv*args.n_group + i_first;

    const uint64_t strm = ((device const int32_t *) (steps + i_step*args.nb_s1))[LIL_METAL_SEL_STREAM];

    k += strm*args.nb_k2 + i_kv*args.size_k;
    v += strm*args.nb_v2 + i_kv*args.size_v;

    const int nk = args.n_embd/4;
    const int nv = args.n_embd_v/4;

    threadgroup float4 * sq = (threadgroup float4 *) shmem;                   // [nk, N]
    threadgroup float4 * sy = sq;                                             // [nv, N]
    threadgroup float  * sx = (threadgroup float *) (sq + N*max(nk, nv));     // [LIL_METAL_ATTN_CHUNK, N]
    threadgroup float  * sm = sx + N*LIL_METAL_ATTN_CHUNK;                    // [2, N]

    for (int i = tiitg; i < N*nk; i += ntg) {
        const int h = i/nk;

        // heads beyond the group's last one: zeros
        sq[i] = h < n_heads
                ? ((device const float4 *) (q + i_step*args.nb_q2 + (i_head + h)*args.nb_q1))[i%nk]*args.scale
                : float4(0.0f);
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    // logits: LIL_ATTN_LANES lanes to a row
    for (int j0 = 0; j0 < n; j0 += ntg/LIL_ATTN_LANES) {
        const int j    = j0 + tiitg/LIL_ATTN_LANES;
        const int lane = tiitg%LIL_ATTN_LANES;

        float x[N];
        for (int h = 0; h < N; ++h) {
            x[h] = 0.0f;
        }

        if (j < n) {
            device const char * row = k + cells[j]*args.nb_k1;

            for (int i = lane; i < nk; i += LIL_ATTN_LANES) {
                const float4 ki = lil_load_quad(lil_type_k, row, i);
                for (int h = 0; h < N; ++h) {
                    x[h] += dot(ki, sq[h*nk + i]);
                }
            }
        }

        for (int h = 0; h < N; ++h) {
            x[h] = lil_sum_lanes(x[h], LIL_ATTN_LANES);
        }

        if (j < n) {
            for (int h = 0; h < N; ++h) {
                if (h%LIL_ATTN_LANES == lane) {
                    sx[h*LIL_METAL_ATTN_CHUNK + j] = x[h];
                }
            }
        }
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    // softmax: a simd-group to a head
    for (int h = sgitg; h < N; h += ntg/32) {
        threadgroup float * xh = sx + h*LIL_METAL_ATTN_CHUNK;

        float m = LIL_NEG;
        for (int j = tiisg; j < n; j += 32) {
            if (args.softcap != 0.0f) {
                xh[j] = args.softcap*precise::tanh(xh[j]/args.softcap);
            }
            m = max(m, xh[j]);
        }
        m = simd_max(m);

        if (args.kq_offset >= 0 && h < n_heads) {
            device float * kq = (device float *) dst + args.kq_offset +
                    ((uint64_t) i_step*args.n_head + i_head + h)*args.n_max + i_chunk*LIL_METAL_ATTN_CHUNK;

            for (int j = tiisg; j < n; j += 32) {
                kq[j] = xh[j];
            }
        }

        float s = 0.0f;
        for (int j = tiisg; j < n; j += 32) {
            xh[j] = exp(xh[j] - m);
            s += xh[j];
        }
        s = simd_sum(s);

        if (tiisg == 0) {
            sm[2*h + 0] = m;
            sm[2*h + 1] = s;
        }
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    // sum over V: a thread to a quad, n_rows rows at once
    const int n_rows = ntg/nv;
    const int i_row  = tiitg/nv;
    const int i_quad = tiitg%nv;

    float4 y[N];
    for (int h = 0; h < N; ++h) {
        y[h] = float4(0.0f);
    }

    if (i_row < n_rows) {
        for (int j = i_row; j < n; j += n_rows) {
            const float4 vi = lil_load_quad(lil_type_v, v + cells[j]*args.nb_v1, i_quad);
            for (int h = 0; h < N; ++h) {
                y[h] += vi*sx[h*LIL_METAL_ATTN_CHUNK + j];
            }
        }
    }

    for (int r = 0; r < n_rows; ++r) {
        if (i_row == r) {
            for (int h = 0; h < N; ++h) {
                sy[h*nv + i_quad] = r == 0 ? y[h] : sy[h*nv + i_quad] + y[h];
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    const int n_chunk = (args.n_max + LIL_METAL_ATTN_CHUNK - 1)/LIL_METAL_ATTN_CHUNK;
    const int stride  = args.n_embd_v + 2;

    device float * part = (device float *) dst + (((uint64_t) i_step*n_chunk + i_chunk)*args.n_head + i_head)*stride;

    for (int i = tiitg; i < n_heads*stride; i += ntg) {
        const int h = i/stride;
        const int c = i%stride;

        part[i] = c < args.n_embd_v ? ((threadgroup const float *) sy)[h*args.n_embd_v + c]
                                    : sm[2*h + c - args.n_embd_v];
    }
}

typedef decltype(kernel_lil_attn<1>) kernel_lil_attn_t;

template LIL_HOST_NAME("kernel_lil_attn_1" ) kernel kernel_lil_attn_t kernel_lil_attn<1>;
template LIL_HOST_NAME("kernel_lil_attn_2" ) kernel kernel_lil_attn_t kernel_lil_attn<2>;
template LIL_HOST_NAME("kernel_lil_attn_3" ) kernel kernel_lil_attn_t kernel_lil_attn<3>;
template LIL_HOST_NAME("kernel_lil_attn_4" ) kernel kernel_lil_attn_t kernel_lil_attn<4>;
template LIL_HOST_NAME("kernel_lil_attn_5" ) kernel kernel_lil_attn_t kernel_lil_attn<5>;
template LIL_HOST_NAME("kernel_lil_attn_6" ) kernel kernel_lil_attn_t kernel_lil_attn<6>;
template LIL_HOST_NAME("kernel_lil_attn_7" ) kernel kernel_lil_attn_t kernel_lil_attn<7>;
template LIL_HOST_NAME("kernel_lil_attn_8" ) kernel kernel_lil_attn_t kernel_lil_attn<8>;
template LIL_HOST_NAME("kernel_lil_attn_12") kernel kernel_lil_attn_t kernel_lil_attn<12>;
template LIL_HOST_NAME("kernel_lil_attn_16") kernel kernel_lil_attn_t kernel_lil_attn<16>;

// Grid: [n_head, n_steps].
kernel void kernel_lil_attn_join(
        constant lil_metal_kargs_attn_join & args [[buffer(0)]],
        device       char * dst  [[buffer(1)]],
        device const char * work [[buffer(2)]],
        device const char * list [[buffer(3)]],
        device const char * sinks [[buffer(4)]],
        uint3  tgpig [[threadgroup_position_in_grid]],
        ushort tiitg [[thread_index_in_threadgroup]],
        ushort tiisg [[thread_index_in_simdgroup]],
        ushort3 ntg3 [[threads_per_threadgroup]]) {
    const int ntg = ntg3.x;

    const int i_head = tgpig.x;
    const int i_step = tgpig.y;

    const int n_list = *(device const int32_t *) (list + i_step*args.nb_l2 + i_head/args.n_group*args.nb_l1);
    const int n      = (n_list + LIL_METAL_ATTN_CHUNK - 1)/LIL_METAL_ATTN_CHUNK;

    const uint64_t stride = (uint64_t) (args.n_embd_v + 2)*args.n_head; // of chunks

    device const float * part =
            (device const float *) work + i_step*args.n_chunk*stride + (uint64_t) i_head*(args.n_embd_v + 2);
    device const float * ms   = part + args.n_embd_v; // maximum and sum

    // every simd-group for itself
    float m = LIL_NEG;
    for (int c = tiisg; c < n; c += 32) {
        m = max(m, ms[c*stride]);
    }
    m = simd_max(m);

    const float sink = lil_get_sink(sinks, args.has_sinks, i_head);
    m = max(m, sink);

    float s = 0.0f;
    for (int c = tiisg; c < n; c += 32) {
        s += exp(ms[c*stride] - m)*ms[c*stride + 1];
    }
    s = simd_sum(s) + (args.has_sinks ? exp(sink - m) : 0.0f);

    device float * y = (device float *) (dst + i_step*args.nb_d2 + i_head*args.nb_d1);

    for (int i = tiitg; i < args.n_embd_v; i += ntg) {
        float sum = 0.0f;
        for (int c = 0; c < n; ++c) {
            sum += exp(ms[c*stride] - m)*part[c*stride + i];
        }
        y[i] = sum/s;
    }
}
