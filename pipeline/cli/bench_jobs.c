/*
 * Owns what is measured in the time there is: small jobs of all kernels first, then the large ones,
 * fastest kernel and smallest grid first. A job gets an equal share of the time that is left for as
 * many heads and runs as fit, one of each if all that is left allows it, else it is left out and
 * says what it would take. Times are estimated from the rate that the kernel had on the grid
 * before, at first on a small one.
 */
#include "bench_jobs.h"

#include "../clock.h"
#include "../device_memory.h"
#include "../machine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_RUNS 5 /* to see a kernel's rate on a small grid */

/* Heads that give a device enough to do then; on the CPU as many as there are threads. */
#define FIRST_HEADS_DEVICE 64

/* A device raises its clock when it has worked for a while. */
#define WARM_UP_DEVICE 0.25

/* Of dense time, what a sparse run takes beyond its density: means, probe rows, repair. */
#define SPARSE_EXTRA 0.15

/* Jobs that take at most this share of the time go first, on all kernels. */
#define SMALL_SHARE 0.05

/* Share of the time for the break-even of all kernels, and runs that the heads leave room for. */
#define BREAK_EVEN_SHARE  0.2
#define RUNS_BEFORE_HEADS 3

/* q, k, v and o once more, as the workspace holds them. */
#define MEMORY_FACTOR 2

/* Work of a break-even search, in dense runs of its longest usual grid, for one contender. */
#define SEARCH_TOKENS 2048
#define SEARCH_RUNS   6

/* What is to be done, and the time for it. */
struct agenda {
    const struct bench_settings *settings;
    struct console *console;
    struct bench_report *report;
    double deadline;
    double rates[BENCH_MAX_KERNELS]; /* operations a second, as last seen */
    draftattn_dtype dtypes[BENCH_MAX_KERNELS];
    int jobs_left;
    bool refused; /* a setting, by the library */
};

/* Seconds, by the kernel's rate, of one dense run of one head and of one turn of all contenders. */
struct estimate {
    double dense, turn, warm_up;
};

static bool on_device(const draftattn_kernel_info *kernel)
{
    return kernel->backend == DRAFTATTN_BACKEND_CUDA;
}

/* Operations a second of a dense run that takes no time. */
static bool first_rate(const struct agenda *s, const draftattn_kernel_info *kernel,
                       int32_t head_dim, draftattn_dtype dtype, double *rate, struct error *error)
{
    int32_t heads = on_device(kernel) ? FIRST_HEADS_DEVICE : s->settings->threads;
    const struct bench_setup setup = {.kernel = *kernel,
                                      .grid = {4, 8, 16, 0},
                                      .heads = heads,
                                      .head_dim = head_dim,
                                      .dtype = dtype,
                                      .threads = s->settings->threads};
    draftattn_plan_desc desc = s->settings->desc;
    struct bench_lab *lab = calloc(1, sizeof *lab);
    double seconds, fastest = INFINITY;
    if (!lab)
        return error_out_of_memory(error, "the measurement", sizeof *lab);
    desc.policy = DRAFTATTN_POLICY_DENSE;
    bool ok = bench_lab_open(lab, &setup, error) && bench_lab_add(lab, &desc, error);
    for (int i = 0; ok && i < FIRST_RUNS; i++) {
        ok = bench_lab_run(lab, 0, &seconds, error);
        fastest = ok ? fmin(fastest, seconds) : fastest;
    }
    *rate = bench_dense_flops(&setup.grid, setup.heads, head_dim) / fmax(fastest, 1e-6);
    bench_lab_close(lab);
    free(lab);
    return ok;
}

static double sparse_share(double sparsity)
{
    return 1 - sparsity + SPARSE_EXTRA;
}

static struct estimate estimate(const struct agenda *s, const struct bench_grid *grid, double rate)
{
    const struct bench_settings *set = s->settings;
    struct estimate e = {.dense = bench_dense_flops(&grid->grid, 1, grid->head_dim) / rate};
    e.turn = e.warm_up = e.dense;
    for (int i = 0; i < set->sparsity_count; i++) {
        double sparse = e.dense * sparse_share(set->sparsity[i]);
        e.turn += sparse;
        e.warm_up = sparse;
    }
    return e;
}

/* As many heads as a share of the time takes with a few runs, and memory holds. */
static int32_t choose_heads(const struct bench_result *result, const struct estimate *e,
                            double share, int runs)
{
    const struct bench_grid *grid = result->grid;
    int32_t heads = grid->heads;
    double fit = share / (fmin(runs, RUNS_BEFORE_HEADS) * e->turn + e->warm_up);
    if (fit < heads)
        heads = fit < 1 ? 1 : (int32_t)fit;
    int64_t room = bench_memory_available(result->kernel->backend) / MEMORY_FACTOR;
    while (heads > 1 && bench_data_bytes(&grid->grid, heads, grid->head_dim, result->dtype) > room)
        heads--;
    return heads;
}

static int choose_runs(const struct estimate *e, double share, int32_t heads, int runs)
{
    double fit = (share / heads - e->warm_up) / e->turn;
    return fit < 1 ? 1 : fit < runs ? (int)fit : runs;
}

static bool add_contenders(const struct agenda *s, struct bench_lab *lab, struct error *error)
{
    const struct bench_settings *set = s->settings;
    draftattn_plan_desc desc = set->desc;
    desc.policy = DRAFTATTN_POLICY_DENSE;
    if (!bench_lab_add(lab, &desc, error))
        return false;
    desc.policy = set->desc.policy;
    for (int i = 0; i < set->sparsity_count; i++) {
        desc.sparsity = set->sparsity[i];
        if (!bench_lab_add(lab, &desc, error))
            return false;
    }
    return true;
}

/* Once on the CPU, on a device for a while. */
static bool warm_up(const struct agenda *s, struct bench_lab *lab, struct error *error)
{
    double took, end = clock_seconds() + WARM_UP_DEVICE;
    do {
        if (!bench_lab_run(lab, lab->count - 1, &took, error))
            return false;
    } while (lab->device && clock_seconds() < fmin(end, s->deadline));
    return true;
}

/* The contenders take turns. Of the first turn, what no longer fits after dense is left out; later
 * ones are begun only where all of it fits. */
static bool take_turns(const struct agenda *s, struct bench_lab *lab, int runs,
                       struct bench_result *result, struct error *error)
{
    double turn = 0;
    if (!warm_up(s, lab, error))
        return false;
    for (int run = 0; run < runs; run++) {
        if (run > 0 && clock_seconds() + turn > s->deadline)
            break;
        double start = clock_seconds(), dense = 0;
        for (int i = 0; i < lab->count; i++) {
            double next = i ? dense * sparse_share(lab->contenders[i].desc.sparsity) : 0;
            if (run == 0 && i > 0 && clock_seconds() + next > s->deadline) {
                snprintf(result->why, sizeof result->why,
                         "what is not here did not fit the time limit of %g s", s->settings->limit);
                continue;
            }
            if (lab->contenders[i].runs == run && !bench_lab_run(lab, i, NULL, error))
                return false;
            if (i == 0)
                dense = lab->contenders[0].seconds[run];
        }
        turn = clock_seconds() - start;
    }
    return true;
}

static bool measure(const struct agenda *s, struct bench_result *result, int runs,
                    struct error *error)
{
    const struct bench_setup setup = {.kernel = *result->kernel,
                                      .grid = result->grid->grid,
                                      .heads = result->heads,
                                      .head_dim = result->grid->head_dim,
                                      .dtype = result->dtype,
                                      .threads = s->settings->threads};
    struct bench_lab *lab = calloc(1, sizeof *lab);
    if (!lab)
        return error_out_of_memory(error, "the measurement", sizeof *lab);
    bool ok = bench_lab_open(lab, &setup, error) && add_contenders(s, lab, error) &&
              take_turns(s, lab, runs, result, error);
    for (int i = 0; ok && i < lab->count; i++)
        if (lab->contenders[i].runs > 0)
            bench_lab_row(lab, i, &result->rows[result->row_count++]);
    bench_lab_close(lab);
    free(lab);
    return ok;
}

static void leave_out(struct bench_result *result, double takes, double left)
{
    const struct bench_grid *grid = result->grid;
    char name[96];
    bench_grid_name(grid, name, sizeof name);
    snprintf(result->why, sizeof result->why,
             "one head takes about %.*f s, %.0f s of the time limit are left (%s%s --kernel %s "
             "--time-limit %.0f)",
             takes < 10, takes, fmax(left, 0), grid->name ? "--preset " : "--grid ", name,
             result->kernel->name, ceil(1.5 * takes / 10) * 10);
}

/* False after Ctrl-C alone; what the library or memory refuses is left out with its words. */
static bool run_job(struct agenda *s, struct bench_result *result, const struct estimate *e,
                    double *rate, struct error *error)
{
    const struct bench_settings *set = s->settings;
    double left = s->deadline - clock_seconds(), share = left / s->jobs_left--;
    char name[96];
    if (e->turn + e->warm_up > left) {
        leave_out(result, e->turn + e->warm_up, left);
        return true;
    }
    result->heads = choose_heads(result, e, share, set->runs);
    int runs = choose_runs(e, share, result->heads, set->runs);
    bench_grid_name(result->grid, name, sizeof name);
    console_print(s->console, "%s on %s: %d of %d heads, %d run%s, about %.2g s\n", name,
                  result->kernel->name, result->heads, result->grid->heads, runs,
                  runs == 1 ? "" : "s", result->heads * (runs * e->turn + e->warm_up));
    struct error why = {0};
    if (!measure(s, result, runs, &why)) {
        if (why.interrupted) {
            *error = why;
            return false;
        }
        snprintf(result->why, sizeof result->why, "%.250s", why.text);
        s->refused = s->refused || why.usage;
    }
    if (result->row_count > 0)
        *rate = result->rows[0].flops / result->rows[0].median;
    return true;
}

/* Every sparsity without probe rows and with them. */
static bool run_break_even(struct agenda *s, int index, struct error *error)
{
    const struct bench_settings *set = s->settings;
    const draftattn_kernel_info *kernel = &set->kernels[index];
    struct bench_break_evens *found = &s->report->break_evens[s->report->break_even_count];
    const draftattn_grid longest = {SEARCH_TOKENS, 1, 1, 0};
    struct bench_setup setup = {
        .kernel = *kernel, .dtype = s->dtypes[index], .threads = set->threads};
    double share = BREAK_EVEN_SHARE * set->limit / set->kernel_count;
    if (set->desc.policy == DRAFTATTN_POLICY_DENSE)
        return true;
    *found = (struct bench_break_evens){
        .kernel = kernel, .head_dim = set->break_even_head_dim, .dtype = setup.dtype};
    for (int i = 0; i < set->sparsity_count; i++) {
        found->rows[found->count++].sparsity = set->sparsity[i];
        if (set->desc.probes > 0)
            found->rows[found->count++] =
                (struct bench_break_even){set->sparsity[i], set->desc.probes, NAN, 0};
    }
    double head = SEARCH_RUNS * found->count *
                  bench_dense_flops(&longest, 1, set->break_even_head_dim) / s->rates[index];
    double fit = share / head;
    setup.heads = fit < 1 ? 1 : fit < set->break_even_heads ? (int32_t)fit : set->break_even_heads;
    setup.head_dim = found->head_dim;
    found->heads = setup.heads;
    console_print(s->console, "break-even of %s: %d heads\n", kernel->name, setup.heads);
    double deadline = fmin(s->deadline, clock_seconds() + 2 * share);
    struct error why = {0};
    if (!bench_break_even_measure(&setup, &set->desc, found->rows, found->count, deadline, &why)) {
        if (why.interrupted) {
            *error = why;
            return false;
        }
        found->count = 0;
        snprintf(found->why, sizeof found->why, "%.250s", why.text);
        console_print(s->console, "left out: %s\n", found->why);
        s->refused = s->refused || why.usage;
    }
    s->report->break_even_count++;
    return true;
}

static bool fits(const draftattn_kernel_info *kernel, int32_t head_dim)
{
    return kernel->head_dim == 0 || kernel->head_dim == head_dim;
}

/* The type of a kernel's data, and its first rate in it. A kernel of the device that has no BF16 is
 * measured in F32 where no type is asked for. */
static bool settle_dtype(struct agenda *s, int index, int32_t head_dim, struct error *error)
{
    const struct bench_settings *set = s->settings;
    const draftattn_kernel_info *kernel = &set->kernels[index];
    draftattn_dtype *dtype = &s->dtypes[index];
    *dtype = set->any_dtype && on_device(kernel) ? DRAFTATTN_BF16 : set->desc.in_dtype;
    bool ok = first_rate(s, kernel, head_dim, *dtype, &s->rates[index], error);
    if (!ok && error->usage && set->any_dtype && *dtype == DRAFTATTN_BF16) {
        *error = (struct error){0};
        *dtype = DRAFTATTN_F32;
        ok = first_rate(s, kernel, head_dim, *dtype, &s->rates[index], error);
    }
    return ok;
}

/* What the library or memory refuses is left out with its words; false after Ctrl-C alone. */
static bool leave_kernel_out(struct agenda *s, int first, const struct error *why,
                             struct error *error)
{
    if (why->interrupted) {
        *error = *why;
        return false;
    }
    for (int i = first; i < s->report->result_count; i++) {
        struct bench_result *result = &s->report->results[i];
        snprintf(result->why, sizeof result->why, "%.250s", why->text);
    }
    s->refused = s->refused || why->usage;
    return true;
}

/* Peak, type, first rate and break-even of a kernel; its results begin, yet to be filled. False
 * after Ctrl-C alone. */
static bool begin_kernel(struct agenda *s, int index, struct error *error)
{
    const struct bench_settings *set = s->settings;
    const draftattn_kernel_info *kernel = &set->kernels[index];
    double *peak = &s->report->peak[kernel->backend];
    int first = s->report->result_count;
    struct error why = {0};
    for (int g = 0; g < set->grid_count; g++)
        if (fits(kernel, set->grids[g].head_dim))
            s->report->results[s->report->result_count++] =
                (struct bench_result){.grid = &set->grids[g], .kernel = kernel};
    if (s->report->result_count == first)
        return true;
    if (on_device(kernel))
        device_memory_device(s->report->device, sizeof s->report->device);
    if (*peak == 0)
        *peak = on_device(kernel) ? bench_peak_device() : bench_peak(kernel->backend, set->threads);
    if (!settle_dtype(s, index, s->report->results[first].grid->head_dim, &why))
        return leave_kernel_out(s, first, &why, error);
    for (int i = first; i < s->report->result_count; i++)
        s->report->results[i].dtype = s->dtypes[index];
    s->jobs_left += s->report->result_count - first;
    return !set->break_even || !fits(kernel, set->break_even_head_dim) ||
           run_break_even(s, index, error);
}

static bool run_jobs(struct agenda *s, bool small, struct error *error)
{
    for (int i = 0; i < s->report->result_count; i++) {
        struct bench_result *result = &s->report->results[i];
        double *rate = &s->rates[result->kernel - s->settings->kernels];
        const struct estimate e = estimate(s, result->grid, *rate);
        bool done = result->row_count > 0 || result->why[0];
        if (done || (small && e.turn > SMALL_SHARE * s->settings->limit))
            continue;
        if (!run_job(s, result, &e, rate, error))
            return false;
    }
    return true;
}

static bool anything_measured(const struct agenda *s, struct error *error)
{
    const struct bench_report *report = s->report;
    for (int i = 0; i < report->result_count; i++)
        if (report->results[i].row_count > 0)
            return true;
    for (int i = 0; i < report->break_even_count; i++)
        if (report->break_evens[i].count > 0)
            return true;
    error_set(error, "nothing was measured: %s",
              report->result_count ? report->results[0].why : "no kernel fits a grid's head_dim");
    error->usage = s->refused;
    return false;
}

bool bench_jobs_run(const struct bench_settings *settings, struct console *console,
                    struct bench_report *report, struct error *error)
{
    size_t jobs = (size_t)settings->grid_count * (size_t)settings->kernel_count;
    *report = (struct bench_report){.threads = settings->threads, .desc = settings->desc};
    machine_cpu_name(report->cpu, sizeof report->cpu);
    report->results = calloc(jobs, sizeof *report->results);
    if (!report->results)
        return error_out_of_memory(error, "the report", jobs * sizeof *report->results);
    struct agenda agenda = {.settings = settings,
                            .console = console,
                            .report = report,
                            .deadline = clock_seconds() + settings->limit};
    for (int k = 0; k < settings->kernel_count; k++)
        if (!begin_kernel(&agenda, k, error))
            return false;
    if (!run_jobs(&agenda, true, error) || !run_jobs(&agenda, false, error))
        return false;
    return anything_measured(&agenda, error);
}

void bench_jobs_free(struct bench_report *report)
{
    free(report->results);
}
