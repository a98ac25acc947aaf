/*
 * The denoising loop around a small rule-made transformer: guidance and the Euler step against
 * their formulas, progress, interruption, and where it says a broken number came from.
 */
#include "wan_rule.h"

#include "denoise.h"

enum { FRAMES = 2, HEIGHT = 4, WIDTH = 6, POSITIONS = FRAMES * HEIGHT * WIDTH };
enum { VALUES = 16 * POSITIONS, STEPS = 3 };

struct setup {
    struct wan_rule rule;
    struct wan_context *prompt, *negative;
    struct scheduler *scheduler;
    float *noise;
    struct denoise denoise;
};

static void must(bool ok, const struct error *error)
{
    if (!ok)
        fail_msg("%s", error->text);
}

static void begin_with(struct setup *setup, const struct wan_transformer_config *config,
                       const char *broken, const char *sampler, int32_t steps)
{
    struct error error = {0};
    const struct scheduler_desc desc = {.sampler = sampler, .steps = steps, .flow_shift = 3.0};
    float *text = wan_rule_input("input.ctx", 9 * 64);
    memset(setup, 0, sizeof *setup);
    wan_rule_begin(&setup->rule, config);
    if (broken)
        rule_file_values(&setup->rule.file, broken)[0] = NAN;
    must(wan_rule_load(&setup->rule, &error), &error);
    wan_rule_plan(&setup->rule, FRAMES, HEIGHT, WIDTH, 8);
    must(wan_context_create(&setup->prompt, setup->rule.transformer, text, 9, 512, NULL, 0, &error),
         &error);
    must(wan_context_create(&setup->negative, setup->rule.transformer, text, 1, 512, NULL, 0,
                            &error),
         &error);
    must(scheduler_create(&setup->scheduler, &desc, VALUES, &ops_cpu, setup->rule.device, &error),
         &error);
    setup->noise = wan_rule_input("input.x", VALUES);
    setup->denoise = (struct denoise){.transformer = setup->rule.transformer,
                                      .prompt = setup->prompt,
                                      .guidance = 4.0,
                                      .scheduler = setup->scheduler,
                                      .attention = setup->rule.attention,
                                      .frames = FRAMES,
                                      .height = HEIGHT,
                                      .width = WIDTH,
                                      .ops = &ops_cpu,
                                      .device = setup->rule.device};
    free(text);
}

static void begin(struct setup *setup, const struct wan_transformer_config *config,
                  const char *broken)
{
    begin_with(setup, config, broken, "euler", STEPS);
}

static void end(struct setup *setup)
{
    wan_context_free(setup->prompt);
    wan_context_free(setup->negative);
    scheduler_destroy(setup->scheduler);
    wan_rule_end(&setup->rule);
    free(setup->noise);
}

static void velocity_of(struct setup *setup, const struct wan_context *context, int32_t step,
                        const float *latents, float *velocity)
{
    struct error error = {0};
    must(wan_transformer_forward(setup->rule.transformer, latents, FRAMES, HEIGHT, WIDTH,
                                 scheduler_timestep(setup->scheduler, step), context,
                                 setup->rule.attention, NULL, velocity, &error),
         &error);
}

/* x += (sigma_next - sigma) (v_negative + g (v_prompt - v_negative)), in double precision. */
static void guidance_and_euler_are_their_formulas(void **state)
{
    (void)state;
    struct error error = {0};
    struct setup setup;
    float got[VALUES], latents[VALUES], prompt[VALUES], negative[VALUES];
    begin(&setup, &wan_small, NULL);
    setup.denoise.negative = setup.negative;
    memcpy(got, setup.noise, sizeof got);
    memcpy(latents, setup.noise, sizeof latents);
    must(denoise_run(&setup.denoise, got, NULL, &error), &error);
    for (int32_t step = 0; step < STEPS; step++) {
        double stride =
            scheduler_sigma(setup.scheduler, step + 1) - scheduler_sigma(setup.scheduler, step);
        velocity_of(&setup, setup.prompt, step, latents, prompt);
        velocity_of(&setup, setup.negative, step, latents, negative);
        for (int i = 0; i < VALUES; i++)
            latents[i] = (float)(latents[i] +
                                 stride * (negative[i] + 4.0 * ((double)prompt[i] - negative[i])));
    }
    for (int i = 0; i < VALUES; i++)
        assert_true(fabs((double)got[i] - latents[i]) < 1e-4);
    end(&setup);
}

static void run_once(bool guided, double guidance, float *latents)
{
    struct error error = {0};
    struct setup setup;
    begin(&setup, &wan_small, NULL);
    setup.denoise.guidance = guidance;
    setup.denoise.negative = guided ? setup.prompt : NULL;
    memcpy(latents, setup.noise, VALUES * sizeof *latents);
    must(denoise_run(&setup.denoise, latents, NULL, &error), &error);
    end(&setup);
}

static void guidance_by_the_prompt_itself_changes_nothing(void **state)
{
    (void)state;
    float alone[VALUES], guided[VALUES];
    run_once(false, 1.0, alone);
    run_once(true, 7.5, guided);
    assert_memory_equal(alone, guided, sizeof alone);
}

/* ---- Progress ---- */

struct counter {
    int64_t calls, last, total, stop_at;
};

static bool count(void *user, int64_t done, int64_t total)
{
    struct counter *counter = user;
    assert_int_equal(done, counter->calls);
    counter->calls++;
    counter->last = done;
    counter->total = total;
    return done != counter->stop_at;
}

static void progress_counts_forward_passes(void **state)
{
    (void)state;
    for (int guided = 0; guided < 2; guided++) {
        struct error error = {0};
        struct setup setup;
        struct counter counter = {.stop_at = -1};
        const struct progress progress = {.step = count, .user = &counter};
        begin(&setup, &wan_small, NULL);
        setup.denoise.negative = guided ? setup.negative : NULL;
        must(denoise_run(&setup.denoise, setup.noise, &progress, &error), &error);
        assert_int_equal(counter.last, STEPS * (1 + guided));
        assert_int_equal(counter.total, STEPS * (1 + guided));
        struct self_attention_report report;
        self_attention_report_get(setup.rule.attention, &report);
        assert_int_equal(report.calls, STEPS * (1 + guided) * wan_small.layers);
        assert_int_equal(report.dense_calls, report.calls);
        assert_true(report.density_all == 1.0 && isnan(report.error_median));
        end(&setup);
    }
}

static void an_interruption_stops_at_once(void **state)
{
    (void)state;
    for (int64_t stop_at = 0; stop_at < 4; stop_at++) {
        struct error error = {0};
        struct setup setup;
        struct counter counter = {.stop_at = stop_at};
        const struct progress progress = {.step = count, .user = &counter};
        begin(&setup, &wan_small, NULL);
        setup.denoise.negative = setup.negative;
        assert_false(denoise_run(&setup.denoise, setup.noise, &progress, &error));
        assert_true(error.interrupted);
        assert_int_equal(counter.last, stop_at);
        end(&setup);
    }
}

/* ---- Saved and taken up again ---- */

enum { LONG = 5 };

struct saves {
    int32_t wanted, calls, last; /* wanted: the step that is due; -1 = every one */
    int count;
    bool refuse;
    float latents[VALUES], history[SCHEDULER_HISTORY_MAX][VALUES];
};

static bool is_due(void *user, int32_t steps_done)
{
    return ((struct saves *)user)->wanted == steps_done;
}

static bool take(void *user, int32_t steps_done, const float *latents, const float *const *history,
                 int count, struct error *error)
{
    struct saves *saves = user;
    saves->calls++;
    saves->last = steps_done;
    saves->count = count;
    memcpy(saves->latents, latents, sizeof saves->latents);
    for (int i = 0; i < count; i++)
        memcpy(saves->history[i], history[i], sizeof saves->history[i]);
    return saves->refuse ? error_set(error, "the disk is full") : true;
}

/* stop_at: the forward pass after which progress says no; -1 = none. */
static bool run_saving(struct setup *setup, const char *sampler, struct saves *saves,
                       int64_t stop_at, float *latents, struct error *error)
{
    struct counter counter = {.stop_at = stop_at};
    const struct progress progress = {.step = count, .user = &counter};
    begin_with(setup, &wan_small, NULL, sampler, LONG);
    setup->denoise.negative = setup->negative;
    if (saves) {
        setup->denoise.saved = take;
        setup->denoise.due = saves->wanted < 0 ? NULL : is_due;
        setup->denoise.saved_user = saves;
    }
    memcpy(latents, setup->noise, VALUES * sizeof *latents);
    return denoise_run(&setup->denoise, latents, &progress, error);
}

static void take_up(const struct saves *saves, const char *sampler, float *latents)
{
    struct error error = {0};
    struct setup setup;
    const float *const history[] = {saves->history[0], saves->history[1], saves->history[2]};
    begin_with(&setup, &wan_small, NULL, sampler, LONG);
    setup.denoise.negative = setup.negative;
    setup.denoise.first_step = saves->last;
    setup.denoise.history = history;
    memcpy(latents, saves->latents, sizeof saves->latents);
    must(denoise_run(&setup.denoise, latents, NULL, &error), &error);
    end(&setup);
}

static void a_run_taken_up_gives_the_same_bits(void **state)
{
    (void)state;
    static const char *const samplers[] = {"unipc", "dpm++", "euler"};
    for (int i = 0; i < 3; i++)
        for (int32_t step = 1; step < LONG; step += 2) {
            struct error error = {0};
            struct setup setup;
            struct saves saves = {.wanted = step};
            float whole[VALUES], rest[VALUES];
            must(run_saving(&setup, samplers[i], &saves, -1, whole, &error), &error);
            end(&setup);
            assert_int_equal(saves.calls, 1);
            assert_int_equal(saves.last, step);
            take_up(&saves, samplers[i], rest);
            assert_memory_equal(whole, rest, sizeof whole);
        }
}

static void what_was_reached_is_saved_when_a_run_stops(void **state)
{
    (void)state;
    struct error error = {0};
    struct setup setup;
    struct saves saves = {.wanted = 100};
    float whole[VALUES], rest[VALUES];
    must(run_saving(&setup, "unipc", NULL, -1, whole, &error), &error);
    end(&setup);
    assert_false(run_saving(&setup, "unipc", &saves, 5, rest, &error)); /* amid the third step */
    end(&setup);
    assert_true(error.interrupted);
    assert_int_equal(saves.calls, 1);
    assert_int_equal(saves.last, 2);
    take_up(&saves, "unipc", rest);
    assert_memory_equal(whole, rest, sizeof whole);
}

static void nothing_is_saved_twice_or_before_the_first_step(void **state)
{
    (void)state;
    struct error error = {0};
    struct setup setup;
    struct saves saves = {.wanted = -1};
    float latents[VALUES];
    assert_false(run_saving(&setup, "euler", &saves, 1, latents, &error));
    end(&setup);
    assert_int_equal(saves.calls, 0);
    assert_false(run_saving(&setup, "euler", &saves, 4, latents, &error));
    end(&setup);
    assert_int_equal(saves.calls, 1); /* after the first; the second had no time to be */
    saves = (struct saves){.wanted = -1, .refuse = true};
    assert_false(run_saving(&setup, "euler", &saves, -1, latents, &error));
    end(&setup);
    assert_non_null(strstr(error.text, "the disk is full"));
    assert_int_equal(saves.calls, 1);
}

/* ---- Condition channels ---- */

static void condition_channels_reach_the_network(void **state)
{
    (void)state;
    struct error error = {0};
    struct setup setup;
    struct wan_transformer_config config = wan_small;
    config.in_channels = 36;
    float *condition = wan_rule_input("input.y", 20 * POSITIONS);
    float first[VALUES], second[VALUES];
    begin(&setup, &config, NULL);
    memcpy(first, setup.noise, sizeof first);
    memcpy(second, setup.noise, sizeof second);
    assert_false(denoise_run(&setup.denoise, first, NULL, &error));
    assert_non_null(strstr(error.text, "condition"));

    float *both = malloc(36 * POSITIONS * sizeof *both), velocity[VALUES];
    assert_non_null(both);
    memcpy(both, setup.noise, sizeof first);
    memcpy(both + VALUES, condition, 20 * POSITIONS * sizeof *both);
    velocity_of(&setup, setup.prompt, 0, both, velocity);
    double stride = scheduler_sigma(setup.scheduler, 1) - scheduler_sigma(setup.scheduler, 0);
    for (int i = 0; i < VALUES; i++)
        both[i] = (float)(both[i] + stride * velocity[i]);
    velocity_of(&setup, setup.prompt, 1, both, velocity);
    stride = scheduler_sigma(setup.scheduler, 2) - scheduler_sigma(setup.scheduler, 1);
    for (int i = 0; i < VALUES; i++)
        both[i] = (float)(both[i] + stride * velocity[i]);
    velocity_of(&setup, setup.prompt, 2, both, velocity);
    stride = scheduler_sigma(setup.scheduler, 3) - scheduler_sigma(setup.scheduler, 2);
    setup.denoise.condition = condition;
    must(denoise_run(&setup.denoise, second, NULL, &error), &error);
    for (int i = 0; i < VALUES; i++)
        assert_true(fabs(second[i] - (both[i] + stride * velocity[i])) < 1e-4);
    end(&setup);
    free(condition), free(both);
}

static void conditions_are_refused_where_none_fits(void **state)
{
    (void)state;
    struct error error = {0};
    struct setup setup;
    begin(&setup, &wan_small, NULL);
    setup.denoise.condition = setup.noise;
    assert_false(denoise_run(&setup.denoise, setup.noise, NULL, &error));
    assert_non_null(strstr(error.text, "takes no"));
    end(&setup);
}

/* ---- Broken numbers ---- */

static void a_nan_is_reported_with_step_pass_and_layer(void **state)
{
    (void)state;
    struct error error = {0};
    struct setup setup;
    begin(&setup, &wan_small, "blocks.1.ffn.0.weight");
    assert_false(denoise_run(&setup.denoise, setup.noise, NULL, &error));
    assert_non_null(strstr(error.text, "step 1 of 3, prompt pass: blocks.1: NaN"));
    end(&setup);

    begin(&setup, &wan_small, NULL);
    setup.noise[VALUES - 1] = INFINITY;
    assert_false(denoise_run(&setup.denoise, setup.noise, NULL, &error));
    assert_non_null(strstr(error.text, "initial latents"));
    end(&setup);

    begin(&setup, &wan_small, NULL);
    setup.denoise.negative = setup.negative;
    setup.denoise.guidance = 1e39;
    assert_false(denoise_run(&setup.denoise, setup.noise, NULL, &error));
    assert_non_null(strstr(error.text, "step 1 of 3, scheduler"));
    end(&setup);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guidance_and_euler_are_their_formulas),
        cmocka_unit_test(guidance_by_the_prompt_itself_changes_nothing),
        cmocka_unit_test(progress_counts_forward_passes),
        cmocka_unit_test(an_interruption_stops_at_once),
        cmocka_unit_test(a_run_taken_up_gives_the_same_bits),
        cmocka_unit_test(what_was_reached_is_saved_when_a_run_stops),
        cmocka_unit_test(nothing_is_saved_twice_or_before_the_first_step),
        cmocka_unit_test(condition_channels_reach_the_network),
        cmocka_unit_test(conditions_are_refused_where_none_fits),
        cmocka_unit_test(a_nan_is_reported_with_step_pass_and_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
