/* count_linear.c: one matrix product by one thread, for whatever counts instructions (arm64_counts).
 * usage: count_linear ISA FORMAT N_OUT N_IN N_ROWS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/ops.h"
#include "kernels/formats.h"
#include "kernels/matrix.h"
#include "kernels/ops.h"
#include "tests/shapes.h"

static kvq_format format_of(const char *name) {
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++)
        if (strcmp(kvq_format_get((kvq_format)f)->name, name) == 0) return (kvq_format)f;
    return KVQ_FORMAT_COUNT;
}

int main(int argc, char **argv) {
    if (argc != 6 || format_of(argv[2]) == KVQ_FORMAT_COUNT) {
        fprintf(stderr, "usage: count_linear ISA FORMAT N_OUT N_IN N_ROWS\n");
        return 2;
    }
    kvq_format format = format_of(argv[2]);
    int n_out = atoi(argv[3]), n_in = atoi(argv[4]), n_rows = atoi(argv[5]);
    const kvq_format_info *info = kvq_format_get(format);
    kvq_shapes shapes = shapes_of_matrices(n_rows, n_in, n_out, 1);
    kvq_error error;
    kvq_ops ops;
    kvq_stream *stream;
    if (kvq_cpu_ops_init(&ops, argv[1], &error) || kvq_cpu_stream_new(&shapes, &stream, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    kvq_matrix m = {.n_out = n_out, .n_in = n_in, .n_parts = 1};
    kvq_matrix_part *part = m.parts;
    *part = (kvq_matrix_part){.layout = kvq_layout_of(format), .n_rows = n_out};
    size_t bytes = kvq_matrix_part_bytes(&part->layout, n_out, n_in, &part->tile_bytes);
    void *file = calloc((size_t)n_out * n_in / info->block_len, info->block_bytes);
    float *in = calloc((size_t)n_rows * n_in, sizeof *in), *out = calloc((size_t)n_rows * n_out, sizeof *out);
    part->data = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!file || !in || !out || !part->data) return 1;
    kvq_matrix_repack(part, format, file, n_out, n_in);
    for (int i = 0; i < n_rows * n_in; i++) in[i] = (float)(i % 17 - 8);
    ops.linear(stream, &(kvq_linear){.out = out, .in = in, .w = &m, .n_rows = n_rows});
    kvq_cpu_stream_free(stream);
    free(part->data);
    free(out);
    free(in);
    free(file);
    return 0;
}
