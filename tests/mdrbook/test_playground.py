"""The controls of the playground: points, levels, settings, shared addresses and predictions."""

import pytest
import torch

import check_book
from tests.mdrbook.playground_page import chosen, places, press


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


def url(page):
    """The address as the page has it: Playwright's page.url follows after a while, long on a busy machine."""
    return page.evaluate("location.href")


def shared(page):
    return page.evaluate(
        "[mdrPlayground.settings, mdrPlayground.state().levels, mdrPlayground.state().points]"
    )


def test_the_address_holds_the_state(open_page, visit, address):
    page = open_page()
    assert "#" not in url(page)
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
    assert "#play&layout=clusters&seed=2" in url(page) and "&moved=5~" in url(page)
    kept, link = shared(page), url(page)
    press(page, "step")
    assert url(page) == link
    again = visit(link)
    settings, levels, points = shared(again)
    assert settings == kept[0] and levels == kept[1] == [-1.5, -0.5, 0.5, 1.55]
    torch.testing.assert_close(torch.tensor(points), torch.tensor(kept[2]), atol=6e-4, rtol=0)
    assert again.evaluate("mdrPlayground.other().points") == points
    assert url(again) == link
    again.click("[data-layout=mixed]")
    assert "layout" not in url(again)
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
    assert page.evaluate("navigator.clipboard.readText()") == url(page)
    assert url(page).endswith("#play&loss=mdr")


# Predictions.


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
