"""The report in headless Chromium: a made-up one with hostile texts, and one of the program's own.

Exit code 77 (skipped) where no Chromium is found. DRAFTATTN_BROWSER names one.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import chromium

PROGRAM = os.environ["DRAFTATTN_PROGRAM"]
SYNTHETIC = os.environ["DRAFTATTN_SYNTHETIC_REPORT"]
MODEL = os.environ["DRAFTATTN_TEST_MODEL"]
SECTIONS = ["results", "videos", "quality", "frames", "errors", "maps", "time", "settings"]

# Resolves when the condition holds; fails after fifteen seconds.
UNTIL = """
const until = async (what, holds) => {
    for (let i = 0; i < 750; i++) {
        if (holds()) return;
        await new Promise(done => setTimeout(done, 20));
    }
    throw new Error('timed out: ' + what);
};
const all = query => [...document.querySelectorAll(query)];
"""

# Contrast of every element that has text of its own against the page or the box behind it.
CONTRAST = """
const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const parse = text => text.match(/[\\d.]+/g).map(Number);
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const behind = e => {
    for (; e; e = e.parentElement) {
        const c = parse(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
};
let worst = [99, ''];
for (const e of document.body.querySelectorAll('*')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (!e.getClientRects().length || e.closest('svg title, script')) continue;
    const style = getComputedStyle(e), text = e.closest('svg') ? style.fill : style.color;
    const a = light(parse(text)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + '.' + e.className];
}
return worst;
"""


class Report:
    """Tests that hold for every report. Subclasses make one and say its frames and variants."""

    frames = fps = variants = None

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="draftattn-report-")
        cls.browser = None
        try:
            cls.path = cls.make_report()
            cls.browser = chromium.Browser(BROWSER)
            cls.page = chromium.Page(cls.browser, 1400)
            cls.page.open(cls.path)
        except BaseException:
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        if cls.browser:
            cls.browser.close()
        shutil.rmtree(cls.folder)

    def tearDown(self):
        self.assertEqual(self.page.complaints(), [])
        self.assertEqual(self.page.requests(), [pathlib.Path(self.path).as_uri()])

    def run_script(self, script):
        return self.page.run(UNTIL + script)

    def test_sections(self):
        self.assertEqual(self.run_script("return all('main > section').map(s => s.id);"), SECTIONS)
        empty = self.run_script("return all('section').filter(s => s.offsetHeight < 60).length;")
        self.assertEqual(empty, 0)
        targets = self.run_script("""return all('nav a').map(a => a.getAttribute('href'))
            .filter(href => !document.querySelector(href));""")
        self.assertEqual(targets, [])

    def test_videos_load(self):
        found = self.run_script("""
            const videos = all('video');
            await until('metadata', () => videos.every(v => v.readyState >= 1));
            return videos.map(v => [v.duration, v.videoWidth, v.controls]);""")
        self.assertEqual(len(found), self.variants)
        for duration, width, controls in found:
            self.assertAlmostEqual(duration, self.frames / self.fps, delta=0.5 / self.fps)
            self.assertGreater(width, 0)
            self.assertFalse(controls)

    def test_slider(self):
        frame = self.frames - 2
        found = self.run_script(f"""
            const slider = document.getElementById('frame');
            await until('metadata', () => all('video').every(v => v.readyState >= 1));
            slider.value = {frame};
            slider.dispatchEvent(new Event('input'));
            await until('seeking', () => all('video').every(v => !v.seeking && v.readyState >= 2));
            const line = document.querySelector('.playhead');
            const rect = document.querySelector('.hit[data-frame="{frame}"]');
            return [all('video').map(v => v.currentTime), +line.getAttribute('x1'),
                +rect.getAttribute('x'), +rect.getAttribute('width'),
                document.getElementById('frame-label').textContent];""")
        times, line, left, width, label = found
        for seconds in times:
            self.assertAlmostEqual(seconds, (frame + 0.5) / self.fps, delta=0.01)
        self.assertTrue(left < line < left + width, found)
        self.assertEqual(label, f"frame {frame + 1} of {self.frames}")

    def test_play(self):
        times = self.run_script("""
            const button = document.getElementById('play');
            const slider = document.getElementById('frame');
            slider.value = 0;
            slider.dispatchEvent(new Event('input'));
            button.click();
            await until('playing', () => all('video').every(v => v.currentTime > 0.2));
            const label = button.textContent;
            button.click();
            await until('pausing', () => all('video').every(v => v.paused && !v.seeking));
            return [label, button.textContent, ...all('video').map(v => v.currentTime)];""")
        self.assertEqual(times[:2], ["Pause", "Play"])
        for seconds in times[2:]: # all stop at one frame
            self.assertAlmostEqual(seconds, times[2], delta=0.01)

    def test_click_on_chart(self):
        found = self.run_script("""
            const hit = all('.hit')[1];
            hit.dispatchEvent(new MouseEvent('click', {bubbles: true}));
            return [+hit.dataset.frame, +document.getElementById('frame').value];""")
        self.assertEqual(found[0], found[1])

    def test_blob_where_data_fails(self):
        """What Safari needs: a video that reports an error is given as a blob."""
        found = self.run_script("""
            const video = all('video')[0], before = video.duration;
            video.dispatchEvent(new Event('error'));
            await until('blob', () => video.src.startsWith('blob:') && video.readyState >= 1);
            return [before, video.duration];""")
        self.assertAlmostEqual(found[0], found[1], delta=0.5 / self.fps)

    def test_images(self):
        found = self.run_script("""
            await until('images', () => all('img').every(i => i.complete));
            return all('img').map(i =>
                [i.naturalWidth, i.naturalHeight, i.width, i.alt.length]);""")
        self.assertGreater(len(found), 4)
        for natural_width, natural_height, width, alt in found:
            self.assertTrue(natural_width and natural_height and width and alt, found)

    def test_no_overflow(self):
        for width in (400, 1400):
            self.page.resize(width)
            found = self.run_script("""
                all('details').forEach(d => { d.open = true; });
                await new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)));
                const root = document.documentElement;
                const result = [root.scrollWidth, root.clientWidth,
                    all('body *').filter(e => !e.closest('.scroll') && !e.closest('svg') &&
                        e.getBoundingClientRect().right > root.clientWidth + 1)
                        .map(e => e.tagName + '.' + e.className)];
                all('details').forEach(d => { d.open = false; });
                return result;""")
            self.assertTrue(width - 20 <= found[1] <= width, found) # less a scroll bar
            self.assertLessEqual(found[0], found[1], found)
            self.assertEqual(found[2], [], width)
        self.page.resize(1400)

    def test_colour_schemes(self):
        backgrounds = set()
        for scheme in ("light", "dark"):
            self.page.command("Emulation.setEmulatedMedia",
                              features=[{"name": "prefers-color-scheme", "value": scheme}])
            ratio, where = self.run_script("all('details').forEach(d => { d.open = true; });" +
                                           CONTRAST)
            self.assertGreaterEqual(ratio, 4.5, f"{scheme}: {where}")
            backgrounds.add(self.run_script("return getComputedStyle(document.body)"
                                            ".backgroundColor;"))
        self.assertEqual(len(backgrounds), 2)
        self.page.command("Emulation.setEmulatedMedia", features=[])

    def test_accessible(self):
        found = self.run_script("""return {
            th: all('th:not([scope])').length,
            svg: all('svg:not([aria-hidden]):not([aria-label])').length,
            video: all('video:not([aria-label])').length,
            input: all('input, select').filter(i => !i.labels.length && !i.ariaLabel).length,
            lang: document.documentElement.lang,
            ids: all('[id]').length - new Set(all('[id]').map(e => e.id)).size };""")
        self.assertEqual(found, {"th": 0, "svg": 0, "video": 0, "input": 0, "lang": "en", "ids": 0})

    def test_copy(self):
        self.page.command("Page.bringToFront")
        found = self.run_script("""
            const button = document.getElementById('copy');
            button.click();
            await until('copied', () => button.textContent === 'Copied');
            return getSelection().toString().length;""")
        self.assertGreater(found, 10)


class Synthetic(Report, unittest.TestCase):
    frames, fps, variants = 12, 8, 3

    @classmethod
    def make_report(cls):
        path = os.path.join(cls.folder, "100% of a&b #1?.html")
        subprocess.run([SYNTHETIC, path], check=True)
        return path

    def test_hostile_texts(self):
        """The prompt holds a script, an image and an event handler; it stays text."""
        found = self.run_script("""return [document.title, all('script').length,
            all('img[src="x"]').length, all('[onload], [onerror]').length,
            document.querySelector('header .prompt').textContent];""")
        self.assertIn("draftattn", found[0])
        self.assertNotEqual(found[0], "broken")
        self.assertEqual(found[1:4], [1, 0, 0])
        self.assertTrue(found[4].startswith("</script><script>document.title='broken'"), found[4])
        self.assertIn("\u00e9 \u732b \U0001f388", found[4])

    def test_policy_refuses_other_scripts(self):
        """Were a text to become markup after all, it would not run: the policy has one hash."""
        page = chromium.Page(self.browser, 800)
        path = os.path.join(self.folder, "injected.html")
        with open(self.path, encoding="utf-8") as file:
            text = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("<header>", "<script>document.title='broken'</script>"
                                    "<img src=x onerror=\"document.title='broken'\"><header>"))
        page.open(path)
        self.assertNotEqual(page.run("return document.title;"), "broken")
        self.assertTrue(page.complaints()) # the policy says that it refused


class OfProgram(Report, unittest.TestCase):
    """What 'draftattn compare' writes. The prompt is as hostile as a command line can be."""

    frames, fps, variants = 17, 16, 3
    prompt = "a red ball </script><script>document.title='broken'</script> \" ' & \u732b"

    @classmethod
    def make_report(cls):
        path = os.path.join(cls.folder, "report.html")
        done = subprocess.run(
            [PROGRAM, "compare", "-m", MODEL, "-p", cls.prompt, "-o", path, "--size", "128x128",
             "--frames", "17", "--steps", "3", "--dense-steps", "0.3", "--seed", "1", "--threads",
             "2", "--min-tokens", "1", "--probes", "64", "--variant", "draft:0.5", "--variant",
             "draft:0.5:compensation=off:probes=0", "--quiet"], capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return path

    def test_prompt_is_text(self):
        found = self.run_script("""return [document.title, all('script').length,
            document.querySelector('header .prompt').textContent,
            document.getElementById('command').textContent];""")
        self.assertNotEqual(found[0], "broken")
        self.assertEqual(found[1], 1)
        self.assertEqual(found[2], self.prompt)
        self.assertIn("compare", found[3])

    def test_all_parts_have_contents(self):
        """Sparse steps with probes give maps, errors and differences: no part is left in words."""
        found = self.run_script("""return ['#videos video', '#quality .line', '#frames img',
            '#errors rect', '#maps img', '#time .bar span', '#settings tr']
            .map(query => [query, all(query).length]);""")
        self.assertEqual([query for query, count in found if not count], [])
        self.assertEqual(dict(found)["#videos video"], 3)


if __name__ == "__main__":
    BROWSER = chromium.find()
    if not BROWSER:
        print("skipped: no Chromium that starts (apt-get install chromium; Ubuntu's is a snap)")
        sys.exit(77)
    unittest.main(verbosity=2)
