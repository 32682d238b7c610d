import pytest

from jaxtrain.apps.plan import hlo_text
from jaxtrain.apps.plan.loops import TripCount, trip_count
from tests.apps.plan.modules import module

CONDITION = """condition:
    %p = (s32[], f32[4], s32[]) parameter(0)
    %i = s32[] get-tuple-element(%p), index=0
    %n = s32[] constant(10)
    ROOT %less = pred[] compare(%i, %n), direction=LT"""
BODY = """body:
    %p = (s32[], f32[4], s32[]) parameter(0)
    %i = s32[] get-tuple-element(%p), index=0
    %x = f32[4] get-tuple-element(%p), index=1
    %k = s32[] get-tuple-element(%p), index=2
    %one = s32[] constant(1)
    %next = s32[] add(%i, %one)
    ROOT %out = (s32[], f32[4], s32[]) tuple(%next, %x, %k)"""
MAIN = """%start = s32[] constant(0)
    %seven = s32[] constant(7)
    %x = f32[4] parameter(0)
    %t = (s32[], f32[4], s32[]) tuple(%start, %x, %seven)
    ROOT %loop = (s32[], f32[4], s32[]) while(%t), condition=%condition, body=%body"""


def count(condition: str = CONDITION, body: str = BODY, main: str = MAIN, *others: str) -> TripCount:
    parsed = hlo_text.parse(module(main, condition, body, *others))
    entry = parsed.computations["main"]
    return trip_count(parsed, entry, entry.instructions["loop"])


def test_a_scan():
    assert count() == TripCount(10, True)


def test_the_compilers_own_count_comes_first():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"16"}}'
    assert count(main=MAIN.replace("body=%body", known)) == TripCount(16, True)


@pytest.mark.parametrize(
    ("old", "new", "trips"),
    [
        ("constant(1)", "constant(3)", 4),  # ceil(10 / 3)
        ("%next = s32[] add(%i, %one)", "%next = s32[] add(%one, %i)", 10),
        ("add(%i, %one)", "subtract(%i, %one)", 1),  # falls, and never ends: not known
        ("add(%i, %one)", "add(%i, %k)", 2),  # a constant that the loop carries: ceil(10 / 7)
    ],
)
def test_steps(old, new, trips):
    assert count(body=BODY.replace(old, new)).count == (10 if trips == 1 else trips)
    assert count(body=BODY.replace(old, new)).exact == (trips != 1)


@pytest.mark.parametrize(
    ("start", "condition", "trips"),
    [
        (4, "compare(%i, %n), direction=LT", 6),
        (0, "compare(%i, %n), direction=LE", 11),
        (0, "compare(%n, %i), direction=GT", 10),
        (2, "compare(%i, %n), direction=NE", 8),
        (12, "compare(%i, %n), direction=LT", 0),
    ],
)
def test_conditions(start, condition, trips):
    text = CONDITION.replace("compare(%i, %n), direction=LT", condition)
    assert count(text, main=MAIN.replace("constant(0)", f"constant({start})")) == TripCount(trips, True)


def test_a_limit_that_the_loop_carries():
    condition = CONDITION.replace("%n = s32[] constant(10)", "%n = s32[] get-tuple-element(%p), index=2")
    assert count(condition) == TripCount(7, True)


def test_a_count_down():
    condition = CONDITION.replace("constant(10)", "constant(0)").replace("LT", "GT")
    body = BODY.replace("constant(1)", "constant(-2)")
    assert count(condition, body, MAIN.replace("constant(0)", "constant(9)")) == TripCount(5, True)


def test_a_condition_in_a_fusion():
    condition = """condition:
        %p = (s32[], f32[4], s32[]) parameter(0)
        %i = s32[] get-tuple-element(%p), index=0
        %n = s32[] constant(12)
        ROOT %less = pred[] fusion(%n, %i), kind=kLoop, calls=%inner"""
    inner = """inner:
        %limit = s32[] parameter(0)
        %at = s32[] parameter(1)
        ROOT %less = pred[] compare(%at, %limit), direction=LT"""
    assert count(condition, BODY, MAIN, inner) == TripCount(12, True)


def test_a_loop_that_may_end_sooner_has_a_bound():
    condition = """condition:
        %p = (s32[], f32[4], s32[]) parameter(0)
        %i = s32[] get-tuple-element(%p), index=0
        %steps = s32[] get-tuple-element(%p), index=2
        %n = s32[] constant(512)
        %limit = s32[] minimum(%steps, %n)
        %less = pred[] compare(%i, %limit), direction=LT
        %x = f32[4] get-tuple-element(%p), index=1
        %open = pred[] custom-call(%x), custom_call_target="any"
        ROOT %go = pred[] and(%less, %open)"""
    assert count(condition) == TripCount(512, False)
    alone = condition.replace("ROOT %go = pred[] and(%less, %open)", "ROOT %go = pred[] copy(%less)")
    assert count(alone) == TripCount(512, False)


def test_an_unknown_loop_counts_once():
    condition = """condition:
        %p = (s32[], f32[4], s32[]) parameter(0)
        %x = f32[4] get-tuple-element(%p), index=1
        ROOT %go = pred[] custom-call(%x), custom_call_target="any" """
    assert count(condition) == TripCount(1, False)
