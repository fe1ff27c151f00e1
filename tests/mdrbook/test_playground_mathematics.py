"""The playground: its mathematics against mdrlib in float64 with autograd, and what its page says happens."""

import json

import pytest
import torch

from mdrlib import MDR, normalize_by_mean_distance, pairwise_distances
from mdrlib.losses import TripletLoss
from mdrlib.miners import all_triplets

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
