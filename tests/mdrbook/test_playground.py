"""The playground of book/playground.md in headless Chromium: its mathematics, its prose and its controls.

The oracle is mdrlib in float64 with autograd. The page is the markup of the chapter without the book around
it; `ci/check_book.py` sees it within the book.
"""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import check_book
from mdrlib import MDR, normalize_by_mean_distance, pairwise_distances
from mdrlib.losses import TripletLoss
from mdrlib.miners import all_triplets

ROOT = Path(__file__).resolve().parents[2]
HEAD = """<!doctype html><html lang="en" data-theme="light"><head><title>Playground</title>
<meta charset="utf8"><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>
html { --pst-color-background: #ffffff; --pst-color-text-base: #222832; }
html[data-theme=dark] { --pst-color-background: #121212; --pst-color-text-base: #ced6dd; }
body { margin: 16px; background: var(--pst-color-background); color: var(--pst-color-text-base); }
</style></head><body><article>"""

DEFAULTS = {
    "loss": "both",
    "margin": 0.2,
    "lambda": 0.2,
    "learn": True,
    "nu": 0.01,
    "momentum": 0.9,
    "rate": 0.3,
}

# Steps from a layout with some points moved: the state before each, what the step said, the state after.
# Gradients and pairs only of the first and last steps, or of all if `whole`.
TRAJECTORY = """({layout, seed, levels, settings, steps, moved, whole}) => {
  const p = mdrPlayground, state = { ...p.layout(layout, seed), levels: [...levels], running: null };
  for (const [i, x, y] of moved) state.points[i] = [x, y];
  const said = [];
  for (let t = 0; t < steps; t++) {
    const before = structuredClone({ points: state.points, levels: state.levels });
    const now = p.step(state, settings), list = array => [...array];
    const { triplet, mdr, batch, running } = now, more = whole || t === 0 || t === steps - 1;
    said.push({ ...before, triplet, mdr, batch, running, ...(more && { nearest: list(now.nearest),
      byTriplet: list(now.byTriplet), byMdr: list(now.byMdr), byLevel: list(now.byLevel) }) });
  }
  return JSON.stringify({ labels: state.labels, said, points: state.points, levels: state.levels });
}"""


def markup() -> str:
    """The raw HTML of the chapter: the playground, its scripts and the buttons of the experiments."""
    source = (ROOT / "book/playground.md").read_text(encoding="utf8")
    return "\n".join(re.findall(r"^```\{raw\} html\n(.*?)^```$", source, re.M | re.S))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("playground")
    shutil.copytree(ROOT / "book/extra", folder, dirs_exist_ok=True)
    (folder / "page.html").write_text(f"{HEAD}{markup()}</article></body></html>", encoding="utf8")
    with check_book.served(folder) as host:
        yield f"{host}/page.html"


@pytest.fixture
def open_page(visit, address):
    """open_page(**context options) -> a page on the playground."""
    return partial(visit, address)


@pytest.fixture(scope="module")
def script(browser, address):
    """A page for its mathematics alone."""
    page = browser.new_page()
    page.goto(address, wait_until="load")
    yield page
    page.close()


def run(script, layout, steps, levels=(-1.5, 0.0, 1.5), moved=(), seed=1, whole=False, **settings):
    """Steps of the script from a layout: see TRAJECTORY."""
    asked = {"layout": layout, "seed": seed, "levels": list(levels), "steps": steps, "whole": whole}
    asked |= {"settings": DEFAULTS | settings, "moved": [list(m) for m in moved]}
    return json.loads(script.evaluate(TRAJECTORY, asked))  # as text: playwright is slow with many numbers


def close(got, wanted, what):
    """1e-5 relative, where numbers are not rounding themselves."""
    torch.testing.assert_close(
        torch.as_tensor(got, dtype=torch.float64),
        torch.as_tensor(wanted).detach().double(),
        rtol=1e-5,
        atol=1e-9,
        msg=lambda message: f"{what}: {message}",
    )


CASES = {
    "clusters": ("clusters", {}),
    "mixed, one level": ("mixed", {"levels": (0.1,)}),
    "mixed, two fixed levels, MDR alone": (
        "mixed",
        {"levels": (-1.0, 1.0), "loss": "mdr", "learn": False, "lambda": 1.0},
    ),
    "mixed, four levels": ("mixed", {"levels": (-1.4, -0.5, 0.6, 1.5), "seed": 2, "margin": 0.55}),
    "mixed, five levels out of order": ("mixed", {"levels": (0.0, -2.0, 2.0, 1.0, -1.0), "nu": 0.1}),
    "mixed, a long memory": ("mixed", {"momentum": 0.99, "rate": 1.0, "lambda": 0.6, "seed": 3}),
    "mixed, no memory": ("mixed", {"momentum": 0.0}),
    "outlier, triplet alone": ("outlier", {"loss": "triplet"}),
    "outlier, the paper's levels": ("outlier", {"levels": (-3.0, 0.0, 3.0), "margin": 0.35}),
    "line": ("line", {}),
    "collapsed": ("collapsed", {}),
    "collapsed but one": ("collapsed", {"moved": ((3, 0.3, 0.1),), "levels": (-1.45, 0.05, 1.5)}),
    "two and three on one spot": (
        "mixed",
        {"moved": ((0, 0.1, 0.2), (8, 0.1, 0.2), (4, -0.3, 0.25), (5, -0.3, 0.25), (15, -0.3, 0.25))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_mathematics_is_that_of_mdrlib(script, name):
    layout, options = CASES[name]
    done = run(script, layout, 6, whole=True, **options)
    settings = DEFAULTS | options
    labels = torch.tensor(done["labels"])
    triplet_loss = TripletLoss(settings["margin"], all_triplets)
    mdr = MDR(
        torch.tensor(done["said"][0]["levels"], dtype=torch.float64), settings["momentum"], backend="eager"
    )
    mdr.double()
    states = [*done["said"], done]
    for t, said in enumerate(done["said"]):
        x = torch.tensor(said["points"], dtype=torch.float64, requires_grad=True)
        with torch.no_grad():
            mdr.levels.copy_(torch.tensor(said["levels"], dtype=torch.float64))
        embeddings = normalize_by_mean_distance(x)
        triplet, regularizer = triplet_loss(embeddings, labels), mdr(embeddings)

        def gradient(loss, of):
            got = torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)[0]
            assert got.isfinite().all()
            return got.flatten()

        what = f"{name}, step {t}"
        close(said["triplet"], triplet, f"{what}, triplet loss")
        close(said["mdr"], regularizer, f"{what}, MDR")
        close(said["byTriplet"], gradient(triplet, x), f"{what}, gradient of the triplet loss")
        close(said["byMdr"], gradient(regularizer, x), f"{what}, gradient of MDR")
        close(said["byLevel"], gradient(regularizer, mdr.levels), f"{what}, gradient by level")
        close(said["running"]["mean"], mdr.running_mean, f"{what}, running mean")
        close(said["running"]["std"], mdr.running_std, f"{what}, running deviation")
        off_diagonal = ~torch.eye(len(x), dtype=torch.bool)
        batch = torch.stack(torch.std_mean(pairwise_distances(embeddings)[off_diagonal]))
        close([said["batch"]["std"], said["batch"]["mean"]], batch, f"{what}, this batch")
        if name != "mixed, five levels out of order":  # ties apart, `assign` numbers levels as given
            assert said["nearest"] == mdr.assign(embeddings).flatten().tolist(), what

        total = torch.zeros((), dtype=torch.float64)
        if settings["loss"] != "mdr":
            total = total + triplet
        if settings["loss"] != "triplet":
            total = total + settings["lambda"] * regularizer + settings["nu"] * mdr.level_penalty()
        points = x - settings["rate"] * gradient(total, x).view(x.shape)
        levels = mdr.levels
        if settings["learn"] and settings["loss"] != "triplet":
            levels = levels - settings["rate"] * gradient(total, levels)
        close(states[t + 1]["points"], points, f"{what}, points after it")
        close(states[t + 1]["levels"], levels, f"{what}, levels after it")


def test_a_step_is_quick(script):
    """In units of a plain loop over all triplets: 0.6 for the mathematics, 15 with drawing."""
    step, all_of_it = script.evaluate("""() => {
      const best = work => Math.min(...Array.from({ length: 5 }, () => {
        const began = performance.now();
        for (let k = 0; k < 20; k++) work();
        return (performance.now() - began) / 20;
      }));
      const plain = best(() => {
        let sum = 0;
        for (let i = 0; i < 21; i++)
          for (let j = 0; j < 21; j++) for (let k = 0; k < 21; k++) sum += Math.hypot(i - j, j - k);
        return sum;
      });
      const { step, state, settings } = mdrPlayground, button = document.querySelector("[data-do=step]");
      return [best(() => step(state(), settings)) / plain, best(() => button.click()) / plain];
    }""")
    assert step < 10 and all_of_it < 100


# What the page says happens, and which of its answers are right.


def setup(script, name, steps, moved=(), **changes):
    """An experiment of the page, `steps` on: TRAJECTORY's answer."""
    asked = script.evaluate("name => ({...mdrPlayground.defaults, ...mdrPlayground.setups[name]})", name)
    asked |= changes
    asked.pop("compare")
    levels = script.evaluate("spread => mdrPlayground.spreads[spread]", asked.pop("spread"))
    return run(script, asked.pop("layout"), steps, levels, moved, **asked)


def lengths(gradient):
    """The length of each point's arrow."""
    return torch.tensor(gradient, dtype=torch.float64).view(-1, 2).norm(dim=1)


def heaps(done, within):
    """Sets of points of one heap: those within a distance of its first."""
    found = []
    for i, (x, y) in enumerate(done["points"]):
        heap = next((h for h in found if torch.dist(torch.tensor(h[0]), torch.tensor((x, y))) < within), None)
        if heap:
            heap[1].append(i)
        else:
            found.append(((x, y), [i]))
    return [members for _, members in found]


def triplets_of(done):
    return [said["triplet"] for said in done["said"]]


def test_clean_classes(script):
    said = setup(script, "silent", 101)["said"]
    assert all(step["triplet"] == 0 for step in said)
    assert lengths(said[0]["byTriplet"]).max() == lengths(said[100]["byTriplet"]).max() == 0
    assert lengths(said[0]["byMdr"]).min() > 0
    assert said[100]["mdr"] < said[0]["mdr"] / 4


def test_one_point_in_another_class(script):
    done = setup(script, "outlier", 60)
    pull = lengths(done["said"][0]["byTriplet"])
    assert pull.argmax() == 6 and done["labels"][6] == 0 and pull.max() > 9 * pull.median()
    spread = lengths(done["said"][0]["byMdr"])
    assert spread.max() < 2 * spread.median() and spread.min() > 0
    assert triplets_of(done)[59] == 0

    def nearest_class(points):
        gaps = (torch.tensor(points) - torch.tensor(points[6])).norm(dim=1)
        gaps[6] = torch.inf
        return done["labels"][gaps.argmin()]

    assert nearest_class(done["points"]) == 0
    assert nearest_class(setup(script, "outlier", 400, loss="mdr")["points"]) == 1


def test_two_fixed_levels(script):
    done = setup(script, "heaps", 200)
    found = heaps(done, 0.15)
    assert len(found) == 2
    for heap in found:
        assert {done["labels"][i] for i in heap} == {0, 1, 2}
        for i in range(21):
            levels = {done["said"][-1]["nearest"][21 * i + j] for j in heap if j != i}
            assert levels == {0 if i in heap else 1}
    assert triplets_of(done)[-1] > triplets_of(done)[0]
    assert len(heaps(setup(script, "heaps", 200, learn=True), 0.15)) > 5


def test_with_and_without_mdr(script):
    both, alone = triplets_of(setup(script, "tug", 301)), setup(script, "tug", 301, loss="triplet")
    assert both[300] < 0.01 * both[0] and min(both) > 0
    assert triplets_of(alone)[90] > 0 and triplets_of(alone)[120] == 0 and min(both[:151]) > 0
    assert alone["said"][150]["points"] == alone["said"][300]["points"]
    strong = triplets_of(setup(script, "tug", 301, **{"lambda": 1}))
    assert 0.45 < min(strong[150:]) / strong[0] and max(strong[150:]) / strong[0] < 0.6


def test_all_points_on_a_line(script):
    done = setup(script, "line", 300)
    assert all(y == 0 for _, y in done["points"])
    triplets = triplets_of(done)
    assert min(triplets) > 0.9 * triplets[0] and triplets[150] < triplets[0]
    for i in (0, 7, 10, 19):
        x = done["said"][0]["points"][i][0]
        assert triplets_of(setup(script, "line", 101, moved=[(i, x, 0.02)]))[100] < 0.01
    later = [(i, x, 0.02 * (i == 7)) for i, (x, _) in enumerate(done["points"])]
    assert triplets_of(setup(script, "line", 101, moved=later))[100] < 0.01


def test_all_points_on_one_spot(script):
    still = setup(script, "collapse", 50)
    assert all(point == [0, 0] for point in still["points"])
    assert still["said"][0]["triplet"] == pytest.approx(0.2) and still["said"][0]["mdr"] == 0
    assert lengths(still["said"][0]["byMdr"]).max() == lengths(still["said"][0]["byTriplet"]).max() == 0
    for place in ((0.02, 0), (0.3, 0.1), (-0.9, 0.5)):
        done = setup(script, "collapse", 100, moved=[(20, *place)])
        by_size = sorted(heaps(done, 1e-9), key=len)
        assert by_size[-1] == list(range(14)) and by_size[-2] == list(range(14, 20))
        assert triplets_of(done)[-1] == pytest.approx(0.2 / 3)
    moved = [(i, *point) for i, point in enumerate(done["points"])]
    moved[10] = (10, moved[10][1] + 0.1, moved[10][2] + 0.3)
    assert triplets_of(setup(script, "collapse", 100, moved=moved))[-1] == 0


# The page works.


def places(page):
    return page.evaluate("mdrPlayground.state().points")


def press(page, action):
    page.click(f"[data-do={action}]")


def test_starts_with_everything_drawn_and_explained(open_page):
    page = open_page()
    assert page.locator(".pg-point").count() == 21 and page.locator(".pg-handle").count() == 3
    assert page.locator(".pg-layouts button").count() == 5
    assert page.locator(".pg-predict:visible").count() == 6
    assert page.locator(".pg-predict button:visible").count() == 18
    for path in ("triplet", "mdr"):
        assert page.locator(f".pg-with path.pg-shaft.pg-{path}").get_attribute("d").count("M") > 10
    names = page.evaluate("""() => [...document.querySelectorAll(
      "article :is(button, input, select, [tabindex], [role=application], [role=group], [role=slider])")]
      .filter(node =>
        !(node.getAttribute("aria-label") || node.textContent || node.closest("label")?.textContent).trim())
      .map(node => node.outerHTML.slice(0, 80))""")
    assert names == []


def test_step_play_pause_and_reset(open_page):
    page = open_page()
    start = places(page)
    press(page, "step")
    assert places(page) != start and page.locator("[data-say=step]").inner_text() == "Step 1"
    press(page, "play")
    assert page.locator("[data-do=play]").inner_text() == "Pause"
    page.wait_for_function("mdrPlayground.steps() > 5")
    press(page, "play")
    paused = page.evaluate("mdrPlayground.steps()")
    page.wait_for_timeout(150)
    assert page.evaluate("mdrPlayground.steps()") == paused
    assert page.locator("[aria-live]").inner_text().startswith(f"Paused. Step {paused}.")
    line = page.locator(".pg-chart path.pg-mdr").get_attribute("d")
    assert line.count("L") == paused
    press(page, "reset")
    assert places(page) == start and page.evaluate("mdrPlayground.state().levels") == [-1.5, 0, 1.5]
    press(page, "draw")
    assert places(page) != start


def test_points_follow_the_pointer_and_the_keys(open_page):
    page = open_page()
    start, node = places(page), page.locator(".pg-point").nth(9)
    box = node.locator(".pg-mark").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 30, steps=3)
    page.mouse.up()
    moved = places(page)
    assert moved[9][0] > start[9][0] + 0.1 and moved[9][1] > start[9][1] + 0.05
    assert moved[:9] + moved[10:] == start[:9] + start[10:]
    after = node.locator(".pg-mark").bounding_box()
    assert abs(after["x"] - box["x"] - 60) < 2 and abs(after["y"] - box["y"] + 30) < 2
    assert page.locator(".pg-lines path").count() == 3  # its pairs, by level

    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Point 10,")
    page.keyboard.press("Space")
    assert node.get_attribute("aria-pressed") == "true"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    x, y = places(page)[9]
    assert x == pytest.approx(moved[9][0] - 0.02) and y == pytest.approx(moved[9][1] - 0.1)
    assert "Point 10 at" in page.locator("[aria-live]").inner_text()
    page.keyboard.press("Escape")
    assert node.get_attribute("aria-pressed") == "false"
    page.keyboard.press("ArrowLeft")
    assert places(page)[9] == [x, y]
    assert page.evaluate("scrollY") == 0
    press(page, "step")
    press(page, "reset")
    assert places(page)[9] == [x, y], "what was moved before the first step is the start"
    press(page, "reset")
    assert places(page) == start


def test_the_plane_is_one_stop_and_the_keys_reach_every_point(open_page):
    page = open_page()
    assert page.locator(".pg-with [tabindex='0']").count() == 1
    page.focus("[data-layout=collapsed]")
    page.keyboard.press("Tab")
    focused = "Number(document.activeElement.getAttribute('aria-label').match(/Point (\\d+)/)[1]) - 1"
    assert page.evaluate(focused) == 0
    for axis, forth, back in ((0, "ArrowRight", "ArrowLeft"), (1, "ArrowUp", "ArrowDown")):
        for _ in range(20):
            page.keyboard.press(back)
        seen = [page.evaluate(focused)]
        for _ in range(20):
            page.keyboard.press(forth)
            seen.append(page.evaluate(focused))
        assert sorted(seen) == list(range(21))
        along = [places(page)[i][axis] for i in seen]
        assert along == sorted(along)
    assert page.locator(".pg-with [tabindex='0']").count() == 1
    last = page.evaluate(focused)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.do") == "play"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(focused) == last


def test_a_point_that_the_keys_hold_stays_while_others_train(open_page):
    page = open_page()
    start = places(page)
    page.locator(".pg-point").nth(3).focus()
    page.keyboard.press("Enter")
    page.evaluate("document.querySelector('[data-do=step]').click()")  # the focus stays
    assert places(page)[3] == start[3] and places(page)[4] != start[4]
    page.keyboard.press("Enter")
    page.evaluate("document.querySelector('[data-do=step]').click()")
    assert places(page)[3] != start[3]


def test_with_and_without_mdr_side_by_side(open_page):
    page = open_page()
    assert not page.locator(".pg-without").is_visible()
    press(page, "step")
    page.check("[data-setting=compare]")
    other = "mdrPlayground.other().points"
    assert page.evaluate("mdrPlayground.steps()") == 0 and page.evaluate(other) == places(page)
    left, right = (page.locator(f".pg-{name}").bounding_box() for name in ("without", "with"))
    assert left["x"] + left["width"] <= right["x"] and abs(left["y"] - right["y"]) < 1
    assert abs(left["width"] - right["width"]) < 1
    assert page.locator(".pg-without path.pg-shaft.pg-mdr").get_attribute("d") == ""
    scales = page.locator(".pg-plane .pg-scale").all_text_contents()
    assert len({text.replace("mean distance", "") for text in scales}) == 1, "one scale of arrows"
    page.locator(".pg-without .pg-point").nth(2).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Space")
    assert page.evaluate(other) == places(page), "before the first step a point moves on both sides"
    for _ in range(20):
        press(page, "step")
    assert page.evaluate(other) != places(page)
    assert page.locator(".pg-chart path.pg-alone").get_attribute("d").count("L") == 20
    alone, both = page.evaluate(other), places(page)
    press(page, "reset")
    page.check("[data-setting=loss][value=triplet]")
    assert not page.locator(".pg-without").is_visible() and page.evaluate("mdrPlayground.other()") is None
    for _ in range(20):
        press(page, "step")
    assert places(page) == alone != both


# The address holds the state.


def shared(page):
    return page.evaluate(
        "[mdrPlayground.settings, mdrPlayground.state().levels, mdrPlayground.state().points]"
    )


def test_the_address_holds_the_state(open_page, visit, address):
    page = open_page()
    assert "#" not in page.url
    page.click("[data-layout=clusters]")
    press(page, "draw")
    page.check("[data-setting=compare]")
    page.select_option("[data-setting=spread]", "4")
    page.locator("[data-setting=lambda]").focus()
    page.keyboard.press("End")
    page.uncheck("[data-setting=learn]")
    page.locator(".pg-handle").nth(3).focus()
    page.keyboard.press("ArrowRight")
    page.locator(".pg-with .pg-point").nth(5).focus()
    for key in ("Enter", "Shift+ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert "#play&layout=clusters&seed=2" in page.url and "&moved=5~" in page.url
    kept, url = shared(page), page.url
    press(page, "step")
    assert page.url == url
    again = visit(url)
    settings, levels, points = shared(again)
    assert settings == kept[0] and levels == kept[1] == [-1.5, -0.5, 0.5, 1.55]
    torch.testing.assert_close(torch.tensor(points), torch.tensor(kept[2]), atol=6e-4, rtol=0)
    assert again.evaluate("mdrPlayground.other().points") == points
    assert again.url == url
    again.click("[data-layout=mixed]")
    assert "layout" not in again.url
    again.evaluate("hash => { location.hash = hash; }", "#play&loss=mdr")
    again.wait_for_function("mdrPlayground.settings.loss === 'mdr'")
    assert again.evaluate("mdrPlayground.settings.layout") == "mixed"


@pytest.mark.parametrize(
    "hash",
    [
        "things-to-try",
        "playground",
        "play",
        "play&layout=nowhere&lambda=7&seed=0.5&rate=3&learn=yes&spread=9",
        "play&levels=1,2&moved=99~x~2,-1~0~0,3~1~2~3,4~99~0&margin=&nu=NaN",
        "play&%E0%A4%A",
        "play&__proto__=1&constructor=2&&=",
    ],
)
def test_an_address_without_a_state_or_with_a_damaged_one_starts_as_ever(open_page, visit, address, hash):
    plain = shared(open_page())
    assert shared(visit(f"{address}#{hash}")) == plain


def test_a_link_is_copied(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.check("[data-setting=loss][value=mdr]")
    press(page, "share")
    page.get_by_text("Link copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert page.url.endswith("#play&loss=mdr")


# Predictions.


def chosen(page, name, right=True):
    """Choose a right or a wrong answer of an experiment, and return what it says."""
    answer = page.locator(
        f"[data-setup={name}] button" + ("[data-right]" if right else ":not([data-right])")
    ).first
    answer.click()
    return answer.inner_text()


def test_each_experiment_has_one_right_answer_and_is_set_up_by_any(open_page):
    page = open_page(reduced_motion="reduce")
    page.check("[data-setting=loss][value=mdr]")
    for name, wanted in page.evaluate("mdrPlayground.setups").items():
        assert page.locator(f"[data-setup={name}] [data-right]").count() == 1
        chosen(page, name, right=False)
        defaults = page.evaluate("mdrPlayground.defaults")
        assert page.evaluate("mdrPlayground.settings") == defaults | wanted
        assert page.evaluate("document.activeElement.dataset.do") == "play"
        assert page.evaluate("mdrPlayground.playing()")
    assert page.locator(".pg-counts text").first.text_content() == "×21"


def test_a_prediction_is_played_and_answered(open_page):
    page = open_page()
    answer = chosen(page, "collapse")
    said = page.locator("[data-say=prediction]")
    assert said.inner_text() == f"You predict: {answer}. 50 steps will show."
    page.wait_for_function("!mdrPlayground.playing()")
    assert page.evaluate("mdrPlayground.steps()") == 50 == page.evaluate("mdrPlayground.trials.collapse")
    assert said.inner_text() == f"You predicted: {answer}. So it is."
    assert said.inner_text() in page.locator("[aria-live]").inner_text()
    answer = chosen(page, "outlier", right=False)
    press(page, "play")
    paused = page.evaluate("mdrPlayground.steps()")
    assert paused < 60
    press(page, "play")
    page.wait_for_function("!mdrPlayground.playing()")
    assert page.evaluate("mdrPlayground.steps()") == 60
    assert said.inner_text() == f"You predicted: {answer}. It is not so."
    press(page, "play")
    page.wait_for_function("mdrPlayground.steps() > 70")
    assert not said.is_visible()
    chosen(page, "line")
    press(page, "reset")
    assert not said.is_visible() and not page.evaluate("mdrPlayground.playing()")


def test_points_follow_a_finger(open_page):
    page = open_page(viewport=check_book.PHONE, has_touch=True, is_mobile=True)
    start = places(page)
    assert page.evaluate("getComputedStyle(document.querySelector('.pg-hit')).touchAction") == "none"
    gaps = torch.cdist(torch.tensor(start), torch.tensor(start)).fill_diagonal_(torch.inf)
    lonely = int(gaps.min(dim=1).values.argmax())
    box = page.locator(".pg-point").nth(lonely).locator(".pg-mark").bounding_box()
    x, y = box["x"] + box["width"] / 2 + 6, box["y"] + box["height"] / 2 + 6  # a finger is not exact
    session = page.context.new_cdp_session(page)
    for kind, dx in (("touchStart", 0), ("touchMove", -20), ("touchMove", -40), ("touchEnd", None)):
        touches = [] if dx is None else [{"x": x + dx, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
        page.wait_for_timeout(50)
    assert places(page)[lonely][0] < start[lonely][0] - 0.1
    assert page.evaluate("mdrPlayground.state().running") is None


def test_levels_follow_the_pointer_and_the_keys(open_page):
    page = open_page()
    levels = "mdrPlayground.state().levels"
    handle = page.locator(".pg-handle").nth(2)
    handle.focus()
    assert handle.get_attribute("aria-label") == "The far level"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(levels)[2] == pytest.approx(1.55)
    assert handle.get_attribute("aria-valuenow") == "1.55"
    box = handle.locator(".pg-pill").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] - 80, box["y"] + 10, steps=3)
    page.mouse.up()
    level = page.evaluate(levels)[2]
    assert level < 1.2
    press(page, "step")
    assert page.evaluate(levels)[2] != level
    press(page, "reset")
    assert page.evaluate(levels)[2] == level


def after_steps(page, count=3):
    """Points and levels after some steps from the start."""
    return page.evaluate(
        """count => {
      const press = action => document.querySelector(`[data-do=${action}]`).click();
      press("reset");
      for (let k = 0; k < count; k++) press("step");
      return [mdrPlayground.state().points, mdrPlayground.state().levels];
    }""",
        count,
    )


def test_each_slider_does_something(open_page):
    page = open_page()
    seen = [after_steps(page)]
    for name in ("lambda", "margin", "nu", "momentum", "rate"):
        slider = page.locator(f"[data-setting={name}]")
        slider.focus()
        page.keyboard.press("Home" if name == "momentum" else "End")
        shown = slider.evaluate("node => node.parentElement.querySelector('output').textContent")
        assert float(shown) == page.evaluate(f"mdrPlayground.settings['{name}']")
        assert slider.get_attribute("aria-valuetext") == shown
        seen.append(after_steps(page))
        assert seen[-1] != seen[-2], name


def test_losses_levels_and_layouts_do_something(open_page):
    page = open_page()
    seen = [after_steps(page)]
    for loss in ("triplet", "mdr"):
        page.check(f"[data-setting=loss][value={loss}]")
        seen.append(after_steps(page))
        gone = {"triplet": "mdr", "mdr": "triplet"}[loss]
        assert page.locator(f".pg-with path.pg-shaft.pg-{gone}").get_attribute("d") == ""
    assert page.locator("[data-setting=margin]").is_disabled()
    page.check("[data-setting=compare]")
    assert page.locator("[data-setting=margin]").is_enabled()
    page.uncheck("[data-setting=compare]")
    page.uncheck("[data-setting=learn]")
    seen.append(after_steps(page))
    assert seen[-1][1] == [-1.5, 0, 1.5]
    for spread, count in (("1", 1), ("2", 2), ("paper", 3), ("4", 4), ("5", 5)):
        page.select_option("[data-setting=spread]", spread)
        seen.append(after_steps(page))
        assert page.locator(".pg-handle").count() == len(seen[-1][1]) == count
    for layout in ("clusters", "outlier", "line", "collapsed"):
        page.click(f"[data-layout={layout}]")
        assert page.locator("[data-layout][aria-pressed=true]").get_attribute("data-layout") == layout
        seen.append(after_steps(page))
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_those_who_want_less_motion_get_still_pictures(open_page):
    page = open_page(reduced_motion="reduce")
    press(page, "play")
    page.wait_for_function("mdrPlayground.steps() >= 15")
    press(page, "play")
    assert page.evaluate("mdrPlayground.steps()") % 15 == 0


# Contrast of drawn text and marks with the page behind them, faded bands included.
DRAWN = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255); };
  const light = c => { const [r, g, b] = c.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const back = rgb(getComputedStyle(document.body).backgroundColor), backs = [back];
  for (const band of document.querySelectorAll(".pg-band")) {
    const share = Number(getComputedStyle(band).opacity), tint = rgb(getComputedStyle(band).fill);
    backs.push(tint.map((v, c) => share * v + (1 - share) * back[c]));
  }
  const least = (css, list) => Math.min(...list.map(under => {
    const [low, high] = [light(under), light(rgb(css))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05); }));
  const found = (selector, property, list) => [...document.querySelectorAll(selector)]
    .map(node => [least(getComputedStyle(node)[property], list), node.outerHTML.slice(0, 90)]);
  return {
    text: [...found(".pg-strip text", "fill", backs), ...found("svg:not(.pg-strip) text", "fill", [back])],
    marks: [...found(".pg-plane .pg-mark, .pg-plane .pg-head, .pg-dot", "fill", [back]),
            ...found(".pg-plane .pg-shaft, .pg-loss, .pg-stem, .pg-pill, .pg-rug, .pg-lines path",
                     "stroke", [back])],
  };
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_readable_in_both_themes(open_page, theme):
    page = open_page()
    fill = "getComputedStyle(document.querySelector('.pg-pill')).fill"
    page.check("[data-setting=compare]")
    page.select_option("[data-setting=spread]", "5")
    for _ in range(3):
        press(page, "step")
    page.locator(".pg-point").nth(3).focus()
    light = page.evaluate(fill)
    check_book.set_theme(page, theme)
    assert (page.evaluate(fill) != light) == (theme == "dark")
    assert check_book.axe_faults(page) == []
    drawn = page.evaluate(DRAWN)
    assert len(drawn["text"]) > 20 and len(drawn["marks"]) > 30
    assert [told for told in drawn["text"] if told[0] < 4.5] == []
    assert [told for told in drawn["marks"] if told[0] < 3] == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_fits_a_phone(open_page, width):
    page = open_page(viewport={"width": width, "height": 800}, device_scale_factor=2)
    for layout in ("mixed", "line"):
        page.click(f"[data-layout={layout}]")
        page.set_checked("[data-setting=compare]", layout == "line")
        assert check_book.look(page, "wide") == []
        texts = page.evaluate("""() => [...document.querySelectorAll(".mdr-playground svg text")]
          .filter(node => node.getBoundingClientRect().left < -1
            || node.getBoundingClientRect().right > innerWidth + 1)
          .map(node => node.textContent)""")
        assert texts == []


HEADER = 64  # pixels that the book's header takes of the window


@pytest.mark.parametrize("compare", [False, True], ids=["one plane", "two planes"])
def test_plane_strip_and_losses_fit_the_screen_of_a_phone(open_page, compare):
    """Also that of a phone whose browser shows its bars, while no prediction is on trial."""
    page = open_page(viewport=check_book.PHONE, is_mobile=True, has_touch=True)
    page.set_checked("[data-setting=compare]", compare)
    for _ in range(3):
        press(page, "step")
    span = """() => document.querySelector('.pg-chart').getBoundingClientRect().bottom
      - document.querySelector('.pg-planes').getBoundingClientRect().top"""
    assert page.evaluate(span) < 725 - HEADER
    chosen(page, "tug" if compare else "line")
    assert page.evaluate(span) < check_book.PHONE["height"] - HEADER
    sizes = page.evaluate("""() => {
      const written = [...document.querySelectorAll(".mdr-playground :is(text, label, span, button)")];
      return written.filter(node => node.getClientRects().length)
        .map(node => parseFloat(getComputedStyle(node).fontSize));
    }""")
    assert min(sizes) >= 11


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_buttons_stay_readable_under_the_pointer_and_after_a_tap(open_page, theme):
    contrast = """node => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const rgb = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255); };
      const light = ([r, g, b]) => [[r, 0.2126], [g, 0.7152], [b, 0.0722]].reduce((sum, [v, share]) =>
        sum + share * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4), 0);
      const under = rgb(getComputedStyle(document.body).backgroundColor);
      const [r, g, b, a] = rgb(getComputedStyle(node).backgroundColor);
      const back = [r, g, b].map((v, c) => a * v + (1 - a) * under[c]);
      const [low, high] = [light(back), light(rgb(getComputedStyle(node).color))].sort((p, q) => p - q);
      return (high + 0.05) / (low + 0.05);
    }"""
    for touch in (False, True):
        page = open_page(
            has_touch=touch, **({"is_mobile": True, "viewport": check_book.PHONE} if touch else {})
        )
        check_book.set_theme(page, theme)
        for button in page.locator("article button").all():
            if touch:
                button.tap()
            else:
                button.hover()
            assert button.evaluate("node => node.matches(':hover')")
            assert button.evaluate(contrast) >= 4.5, button.inner_text()
            if not touch:
                page.mouse.down()
                assert button.evaluate(contrast) >= 4.5, button.inner_text()
                page.mouse.up()


def test_without_scripts_a_picture_and_a_sentence_remain(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert not page.locator("#mdr-playground").is_visible()
    assert page.locator("button:visible").count() == 0
    context.close()
    source = (ROOT / "book/playground.md").read_text(encoding="utf8")
    still = source.split("{div} playground-still")[1].split(":::::")[0]
    assert "needs JavaScript" in still and ":alt: The playground." in still
    assert (ROOT / "book/images/playground.png").exists()


def test_loads_on_its_own_page_only():
    names = {path.name for path in (ROOT / "book/_static").glob("**/*.js")}
    assert names == set(), "every script in _static loads on every page"
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert "extra" in config["sphinx"]["config"]["html_extra_path"]
    for source in re.findall(r'(?:src|href)="(playground-parts/[^"]+)"', markup()):
        assert (ROOT / "book/extra" / source).exists()
    scripts = "".join(path.read_text() for path in (ROOT / "book/extra").glob("**/*.js"))
    assert "eval(" not in scripts and "Function(" not in scripts
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", scripts) == []
