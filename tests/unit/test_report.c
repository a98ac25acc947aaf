/*
 * The report: that it holds what it must, that nothing from outside becomes markup, that it stays
 * within its size, and that it appears whole or not at all. What a browser makes of it is
 * tests/browser.
 */
#include "comparison_case.h"
#include "scratch.h"

#include "interrupt.h"
#include "report/charts.h"
#include "report/heatmap.h"
#include "report/html.h"
#include "report/pictures.h"
#include "report/report.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#include <cmocka.h>

/* All of a stream, as text. */
static char *read_stream(FILE *file)
{
    long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    assert_true(size >= 0);
    rewind(file);
    char *text = malloc((size_t)size + 1);
    assert_int_equal(fread(text, 1, (size_t)size, file), size);
    text[size] = '\0';
    return text;
}

static char *read_page(const char *path)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = read_stream(file);
    fclose(file);
    return text;
}

static char *write_and_read(struct scratch *scratch, const struct comparison *comparison)
{
    struct error error = {0};
    const char *path = scratch_path(scratch, "report.html");
    if (!report_write(path, comparison, &error))
        fail_msg("%s", error.text);
    return read_page(path);
}

static int occurrences(const char *text, const char *words)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, words)); at += strlen(words))
        count++;
    return count;
}

static void expect(const char *page, const char *words)
{
    if (!strstr(page, words))
        fail_msg("the page does not hold '%s'", words);
}

static int entries(const char *folder)
{
    int count = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        count += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(dir);
    return count;
}

static void test_contents(void **state)
{
    struct comparison_case c;
    case_open(&c);
    char *page = write_and_read(*state, &c.comparison);
    static const char *const sections[] = {"results", "videos", "quality", "frames",
                                           "errors",  "maps",   "time",    "settings"};
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        char words[64];
        snprintf(words, sizeof words, "<section id=\"%s\"", sections[i]);
        assert_int_equal(occurrences(page, words), 1);
        snprintf(words, sizeof words, "<a href=\"#%s\">", sections[i]);
        assert_int_equal(occurrences(page, words), 1);
    }
    assert_int_equal(occurrences(page, "<summary>How to read this</summary>"), 8);
    assert_int_equal(occurrences(page, "<video "), CASE_VARIANTS);
    assert_int_equal(occurrences(page, "src=\"data:image/png;base64,"), 2 * CASE_MAPS);
    /* first, middle and worst of one variant; first (also the worst) and middle of the other */
    assert_int_equal(occurrences(page, "src=\"data:image/jpeg;base64,"), 3 * (3 + 2));
    assert_int_equal(occurrences(page, "<title>step "), 2 * CASE_STEPS * CASE_LAYERS);
    expect(page, "<td class=\"gain\">1.50×</td>"); /* 12 s over 8 s */
    expect(page, "<td class=\"gain\">2.00×</td>"); /* denoising, 8 over 4 */
    expect(page, "<td class=\"gain\">3.00×</td>"); /* attention, 6 over 2 */
    expect(page, "<td>43.8 %</td>");
    expect(page, "<td>28.2</td>");
    expect(page, "21.5 (<a href=\"#videos\" data-frame=\"7\">frame 8</a>)");
    expect(page, "every call ran dense");
    expect(page, "4242");
    expect(page, "draftattn compare -p &#39;a red ball&#39;");
    expect(page, "2 × 2 blocks a cell");
    expect(page, "memory at most, MiB</th><td>300</td>");
    expect(page, ">rest of denoising<");
    expect(page, "Frame 8</a>, the worst: PSNR 21.5 dB");
    assert_int_equal(occurrences(page, ", the worst:"), 1); /* none of an identical video */
    free(page);
    case_close(&c);
}

/* A GPU's memory stands beside the host's, and the stages of attention have no times there. */
static void test_gpu(void **state)
{
    struct comparison_case c;
    case_open(&c);
    for (int v = 0; v < CASE_VARIANTS; v++) {
        c.variants[v].report.gpu = true;
        c.variants[v].report.device_peak = (int64_t)(v == 1 ? 900 : 800) << 20;
        c.variants[v].attention_seconds = NAN;
        for (int i = 0; i < DRAFTATTN_STAGE_COUNT; i++)
            c.variants[v].report.attention.seconds[i] = NAN;
    }
    char *page = write_and_read(*state, &c.comparison);
    expect(page, "memory at most, MiB</th><td>900 of the GPU, 300 of the host</td>");
    assert_int_equal(occurrences(page, ">rest of denoising<"), 0);
    expect(page, ">denoise</li>");
    expect(page, "<td class=\"gain\">1.50×</td>");
    assert_int_equal(occurrences(page, "<td class=\"gain\">3.00×</td>"), 0); /* attention */
    free(page);
    case_close(&c);
}

/* Errors of 0 are something else than none. */
static void test_no_errors(void **state)
{
    for (int estimated = 0; estimated < 2; estimated++) {
        struct comparison_case c;
        case_open(&c);
        for (int i = 0; i < CASE_STEPS * CASE_LAYERS; i++)
            c.variants[1].error_worst[i] = c.variants[1].error_median[i] = estimated ? 0 : NAN;
        char *page = write_and_read(*state, &c.comparison);
        assert_int_equal(occurrences(page, "No error was estimated"), !estimated);
        assert_int_equal(occurrences(page, "Every estimated error is 0"), estimated);
        free(page);
        case_close(&c);
    }
}

/* The map of the head with the largest error says so, and of which forward pass it is. */
static void test_worst_head(void **state)
{
    struct comparison_case c;
    case_open(&c);
    struct self_attention_report *attention = &c.variants[1].report.attention;
    attention->worst_step = 2, attention->worst_layer = 1, attention->worst_head = 0;
    c.variants[1].maps[0].negative = true;
    c.variants[1].maps[0].error = attention->error_worst;
    char *page = write_and_read(*state, &c.comparison);
    expect(page, "step 3, layer 1, head 0, negative prompt</b>, the worst of the run: density");
    assert_int_equal(occurrences(page, "the worst of the run"), 1);
    free(page);
    case_close(&c);
}

/* NaN and infinity are words or gaps. base64 is taken out first: it may hold any letters. */
static void test_no_raw_nan(void **state)
{
    struct comparison_case c;
    case_open(&c);
    char *page = write_and_read(*state, &c.comparison);
    for (char *at = page; (at = strstr(at, ";base64,"));)
        while (*at && *at != '"')
            *at++ = '#';
    assert_null(strstr(page, "nan"));
    assert_null(strstr(page, "NaN"));
    assert_null(strstr(page, ">inf"));
    assert_null(strstr(page, " inf"));
    assert_null(strstr(page, "-inf"));
    assert_int_equal(occurrences(page, "<td>identical</td>"), 2); /* of files and RGB */
    expect(page, "\ndraft 75 %: identical");                      /* frame 3, on hovering */
    expect(page, "class=\"dot series-0\"");
    expect(page, "error not measured");
    free(page);
    case_close(&c);
}

/* No tag, attribute or entity of a prompt survives, wherever text from outside is shown. */
static void test_hostile_text(void **state)
{
    struct comparison_case c;
    case_open(&c);
    char *page = write_and_read(*state, &c.comparison);
    int scripts = occurrences(page, "<script"), images = occurrences(page, "<img");
    free(page);
    c.comparison.prompt = c.comparison.negative_prompt = c.comparison.command = CASE_HOSTILE;
    c.comparison.model = c.comparison.machine = CASE_HOSTILE;
    strcpy(c.variants[1].label, "\"'><script>broken()</script>");
    free(c.variants[1].video);
    c.variants[1].video = strdup(CASE_HOSTILE);
    page = write_and_read(*state, &c.comparison);
    assert_int_equal(occurrences(page, "<script"), scripts);
    assert_int_equal(occurrences(page, "<img"), images);
    assert_null(strstr(page, "onerror=document.title='"));
    assert_null(strstr(page, "onload=\"document"));
    expect(page, "&lt;/script&gt;&lt;script&gt;document.title=&#39;broken&#39;");
    expect(page, "&amp; &amp;amp; --&gt; ]]&gt; \xef\xbf\xbd\xef\xbf\xbd \xc3\xa9 \xe7\x8c\xab");
    expect(page, "&quot;&#39;&gt;&lt;script&gt;broken()");
    /* bytes that are no UTF-8, an overlong slash, a surrogate: one mark a byte */
    expect(page, "\xf0\x9f\x8e\x88 \xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd "
                 "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd ");
    free(page);
    case_close(&c);
}

static void test_long_prompt(void **state)
{
    struct comparison_case c;
    struct stat info;
    case_open(&c);
    size_t size = 1 << 20;
    char *prompt = malloc(size + 1);
    memset(prompt, '<', size);
    prompt[size] = '\0';
    c.comparison.prompt = c.comparison.negative_prompt = c.comparison.command = prompt;
    char *page = write_and_read(*state, &c.comparison);
    expect(page, "<details class=\"prompt\">");
    expect(page, "… (983040 more bytes)");
    assert_int_equal(stat(scratch_path(*state, "report.html"), &info), 0);
    assert_true(info.st_size < REPORT_MAX_BYTES / 4);
    free(page);
    memset(prompt, 'x', 10000);
    prompt[10000] = '\0';
    c.comparison.negative_prompt = NULL;
    c.comparison.command = "";
    page = write_and_read(*state, &c.comparison);
    assert_int_equal(occurrences(page, prompt), 1); /* in full */
    free(page);
    free(prompt);
    case_close(&c);
}

/* What has not been measured or kept is said in words. */
static void test_missing_parts(void **state)
{
    struct comparison_case c;
    case_open(&c);
    c.comparison.variant_count = 1;
    char *page = write_and_read(*state, &c.comparison);
    expect(page, "There is no variant to measure.");
    expect(page, "There are no frames to compare.");
    expect(page, "No error was estimated");
    expect(page, "No maps were captured");
    free(page);
    c.comparison.variant_count = 2;
    uint8_t *frames = c.variants[0].frames;
    c.variants[0].frames = NULL;
    page = write_and_read(*state, &c.comparison);
    expect(page, "Not embedded: the frames were not kept");
    assert_null(strstr(page, "<video "));
    free(page);
    c.variants[0].frames = frames;
    struct error error = {0};
    c.comparison.variant_count = 0;
    assert_false(report_write(scratch_path(*state, "none.html"), &c.comparison, &error));
    expect(error.text, "nothing to report");
    c.comparison.variant_count = CASE_VARIANTS;
    case_close(&c);
}

/* Noise that no codec makes small: the copies shrink until they fit. */
static void test_size_limit(void **state)
{
    enum { SIDE = 512, FRAMES = 13, VARIANTS = 3 };
    struct comparison_case c;
    struct stat info;
    case_open(&c);
    size_t size = (size_t)3 * SIDE * SIDE * FRAMES;
    uint32_t random = 1;
    for (int v = 0; v < VARIANTS; v++) {
        free(c.variants[v].frames);
        c.variants[v].frames = malloc(size);
        for (size_t i = 0; i < size; i++) {
            random = random * 1664525 + 1013904223;
            c.variants[v].frames[i] = (uint8_t)(random >> 24);
        }
    }
    c.variants[1].quality.worst_frame = c.variants[2].quality.worst_frame = 5;
    c.comparison.width = c.comparison.height = SIDE;
    for (int v = 0; v < VARIANTS; v++) { /* charts of as many frames as there are */
        c.variants[v].quality.psnr = realloc(c.variants[v].quality.psnr, FRAMES * sizeof(double));
        c.variants[v].quality.ssim = realloc(c.variants[v].quality.ssim, FRAMES * sizeof(double));
        for (int t = CASE_FRAMES; t < FRAMES; t++)
            c.variants[v].quality.psnr[t] = c.variants[v].quality.ssim[t] = 1;
    }
    c.comparison.frames = FRAMES;
    char *page = write_and_read(*state, &c.comparison);
    assert_int_equal(stat(scratch_path(*state, "report.html"), &info), 0);
    assert_true(info.st_size < REPORT_MAX_BYTES);
    expect(page, "encoded smaller than the files");
    assert_int_equal(occurrences(page, "<video "), VARIANTS);
    free(page);
    case_close(&c);
}

/* The file is there whole or not at all, and no temporary stays. */
static void test_whole_or_nothing(void **state)
{
    struct comparison_case c;
    struct error error = {0};
    case_open(&c);
    const char *folder = scratch_folder(*state, "sub");
    char path[600];
    snprintf(path, sizeof path, "%s/report.html", folder);
    assert_true(report_write(path, &c.comparison, &error));
    assert_int_equal(entries(folder), 1);
    unlink(path);
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 1000; limit < 100000; limit *= 6) {
        small.rlim_cur = limit;
        setrlimit(RLIMIT_FSIZE, &small);
        bool ok = report_write(path, &c.comparison, &error);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_false(ok);
        expect(error.text, "report.html");
        assert_int_equal(entries(folder), 0);
    }
    signal(SIGXFSZ, SIG_DFL);
    assert_false(report_write("/dev/null/report.html", &c.comparison, &error));
    case_close(&c);
}

/* The last one: what has been requested stays requested. */
static void test_interrupt(void **state)
{
    struct comparison_case c;
    struct error error = {0};
    case_open(&c);
    const char *folder = scratch_folder(*state, "sub");
    char path[600];
    snprintf(path, sizeof path, "%s/report.html", folder);
    interrupt_install();
    raise(SIGTERM);
    assert_false(report_write(path, &c.comparison, &error));
    assert_true(error.interrupted);
    assert_int_equal(entries(folder), 0);
    case_close(&c);
}

static void test_base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foobar", "Zm9vYmFy"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) { /* RFC 4648, section 10 */
        struct html html = {.file = tmpfile()};
        html_data(&html, "a/b", pairs[i][0], strlen(pairs[i][0]));
        char *text = read_stream(html.file);
        assert_string_equal(text + strlen("data:a/b;base64,"), pairs[i][1]);
        assert_int_equal(html.bytes, strlen(text));
        assert_int_equal(html_data_size((int64_t)strlen(pairs[i][0])), strlen(pairs[i][1]));
        free(text);
        fclose(html.file);
    }
    /* from memory and from a file alike, over more than one chunk, padded at the end alone */
    uint8_t bytes[30001];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * i >> 3);
    FILE *source = tmpfile();
    assert_int_equal(fwrite(bytes, 1, sizeof bytes, source), sizeof bytes);
    struct html memory = {.file = tmpfile()}, file = {.file = tmpfile()};
    html_data(&memory, "a/b", bytes, sizeof bytes);
    html_data_file(&file, "a/b", source);
    char *a = read_stream(memory.file), *b = read_stream(file.file);
    assert_string_equal(a, b);
    assert_int_equal(strlen(a), strlen("data:a/b;base64,") + 40004);
    assert_ptr_equal(strchr(a, '='), a + strlen(a) - 2);
    free(a);
    free(b);
    fclose(source);
    fclose(memory.file);
    fclose(file.file);
}

static void test_pictures(void **state)
{
    (void)state;
    uint8_t rgb[3 * 5 * 4], small[3 * 2 * 2];
    for (int i = 0; i < 20; i++)
        for (int c = 0; c < 3; c++)
            rgb[3 * i + c] = (uint8_t)(10 * c + i);
    picture_shrink(small, rgb, 5, 4, 2); /* the fifth column is dropped */
    for (int c = 0; c < 3; c++) {
        assert_int_equal(small[c], 10 * c + (0 + 1 + 5 + 6 + 2) / 4);
        assert_int_equal(small[3 + c], 10 * c + (2 + 3 + 7 + 8 + 2) / 4);
        assert_int_equal(small[6 + c], 10 * c + (10 + 11 + 15 + 16 + 2) / 4);
    }
    uint8_t a[4] = {0, 100, 200, 255}, b[4] = {3, 90, 255, 0}, d[4];
    picture_difference(d, a, b, 4, 4);
    assert_int_equal(d[0], 12);
    assert_int_equal(d[1], 40);
    assert_int_equal(d[2], 220);
    assert_int_equal(d[3], 255);
    int64_t histogram[256] = {0};
    picture_difference_count(histogram, a, b, 4);
    assert_int_equal(histogram[3] + histogram[10] + histogram[55] + histogram[255], 4);
    assert_int_equal(picture_difference_factor(histogram), 1);
    histogram[0] = 1000; /* four of a thousand may clip */
    assert_int_equal(picture_difference_factor(histogram), 32);
}

/* Dark to light, evenly, so that order is what the eye sees; NaN is none of the colours. */
static void test_colours(void **state)
{
    (void)state;
    uint8_t rgb[3];
    double before = -1;
    for (int i = 0; i <= 60; i++) {
        heatmap_colour(i / 60.0, rgb);
        double light = 0.2126 * pow(rgb[0] / 255.0, 2.2) + 0.7152 * pow(rgb[1] / 255.0, 2.2) +
                       0.0722 * pow(rgb[2] / 255.0, 2.2);
        assert_true(light > before);
        before = light;
    }
    uint8_t low[3], high[3];
    heatmap_colour(-5, low);
    heatmap_colour(0, rgb);
    assert_memory_equal(low, rgb, 3);
    heatmap_colour(7, high);
    heatmap_colour(1, rgb);
    assert_memory_equal(high, rgb, 3);
    heatmap_colour(NAN, rgb);
    assert_true(rgb[0] == rgb[1] && rgb[1] == rgb[2]);
}

/* However long the video, lines and titles stay few, and no dip is lost. */
static void test_long_chart(void **state)
{
    (void)state;
    enum { COUNT = 9999 };
    double *values = malloc(COUNT * sizeof *values);
    for (int i = 0; i < COUNT; i++)
        values[i] = i == 5003 ? 10 : 30;
    const struct chart_series series = {.label = "a<b", .values = values};
    const struct chart chart = {.name = "PSNR",
                                .unit = "dB",
                                .format = "%.2f dB",
                                .infinite = "identical",
                                .top = INFINITY,
                                .count = COUNT,
                                .series = &series,
                                .series_count = 1};
    struct html html = {.file = tmpfile()};
    chart_write(&html, &chart);
    char *text = read_stream(html.file);
    assert_true(strlen(text) < 60000);
    assert_true(occurrences(text, "<rect") <= 200);
    expect(text, ">a&lt;b</li>");
    expect(text, ">10</text>"); /* the axis reaches the dip */
    expect(text, " 226.0");     /* and so does the line: the lower end of the plot */
    free(text);
    fclose(html.file);
    for (double top = 1.5; top < 1e5; top *= 1.7) {
        double up = chart_round_up(top), digit = up / pow(10, floor(log10(up) + 1e-9));
        assert_true(up >= top * 0.999 && up <= 2.5 * top);
        assert_true(fabs(digit - 1) < 1e-9 || fabs(digit - 2) < 1e-9 || fabs(digit - 5) < 1e-9);
    }
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_contents, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_gpu, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_worst_head, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_no_errors, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_no_raw_nan, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_hostile_text, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_long_prompt, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_missing_parts, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_size_limit, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_whole_or_nothing, scratch_setup, scratch_teardown),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_pictures),
        cmocka_unit_test(test_colours),
        cmocka_unit_test(test_long_chart),
        cmocka_unit_test_setup_teardown(test_interrupt, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
