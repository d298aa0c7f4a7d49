"""A field or a parameter with a default, added under running runs, changes nothing; any other edit is told by name."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NotRequired, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from stepwell import (
    DeterminismError,
    RunConflict,
    RunHalted,
    SerializationError,
    StepwellError,
    publish,
    receive,
    send,
    start,
    step,
    workflow,
)
from stepwell.testing import TestEngine
from stepwell.values.added_fields import is_recorded, what_is_new
from stepwell.values.codec import Codec

CODEC = Codec()

# --- versions of a class ----------------------------------------------------------------------------------------------


def as_dataclass(fields: dict[str, Any], defaults: dict[str, Any], **options: Any) -> Any:
    given = [
        (name, of, dataclasses.field(**_default(defaults, name, "default_factory"))) for name, of in fields.items()
    ]
    return dataclasses.make_dataclass("Order", given, **options)


def as_slots(fields: dict[str, Any], defaults: dict[str, Any]) -> Any:
    return as_dataclass(fields, defaults, slots=True, frozen=True)


def as_attrs(fields: dict[str, Any], defaults: dict[str, Any]) -> Any:
    return attrs.make_class(
        "Order", {n: attrs.field(type=of, **_default(defaults, n, "factory")) for n, of in fields.items()}
    )


def as_struct(fields: dict[str, Any], defaults: dict[str, Any], **options: Any) -> Any:
    given = [(n, of, msgspec.field(**_default(defaults, n, "default_factory"))) for n, of in fields.items()]
    return msgspec.defstruct("Order", given, **options)


def as_array(fields: dict[str, Any], defaults: dict[str, Any]) -> Any:
    return as_struct(fields, defaults, array_like=True)


def as_renamed(fields: dict[str, Any], defaults: dict[str, Any]) -> Any:
    return as_struct(fields, defaults, rename="camel", tag=True)


def as_pydantic(fields: dict[str, Any], defaults: dict[str, Any]) -> Any:
    given: Any = {n: (of, pydantic.Field(**_default(defaults, n, "default_factory"))) for n, of in fields.items()}
    return pydantic.create_model("Order", **given)


def as_tuple(fields: dict[str, Any], defaults: dict[str, Any]) -> Any:
    made: Any = NamedTuple("Order", list(fields.items()))  # type: ignore[misc]
    made.__new__.__defaults__ = tuple(defaults.values())
    made._field_defaults.update(defaults)
    return made


def made(cls: Any, *values: Any) -> Any:
    return cls(**dict(zip(cls.model_fields, values, strict=False))) if hasattr(cls, "model_fields") else cls(*values)


def _default(defaults: dict[str, Any], name: str, factory: str) -> dict[str, Any]:
    if name not in defaults:
        return {}
    value = defaults[name]
    return {factory: value} if callable(value) else {"default": value}


MAKERS = [as_dataclass, as_slots, as_attrs, as_struct, as_array, as_renamed, as_pydantic, as_tuple]
OLD = {"id": str}
NEW = {"id": str, "currency": str, "unit_price": int}
DEFAULTS = {"currency": "EUR", "unit_price": 5}


def checkout(order: Any, calls: list[str]) -> SimpleNamespace:
    """Return the workflow and its child, as the code has them in one version, with this class."""

    async def charge(order: Any, note: str = "") -> str:
        calls.append("charge")
        return f"charged {order.id}{note}"

    async def pack(orders: Any, by_name: Any) -> int:
        calls.append("pack")
        return len(orders) + len(by_name)

    async def kid(order: Any) -> str:  # noqa: ARG001 - it is passed on
        return "kid"

    charge.__annotations__ = {"order": order, "note": str, "return": str}
    pack.__annotations__ = {"orders": list[order], "by_name": dict[str, order], "return": int}
    kid.__annotations__ = {"order": order, "return": str}
    charges, packs, child = step(name="charge")(charge), step(name="pack")(pack), workflow(name="kid")(kid)

    async def flow(order: Any, extra: int = 3) -> str:  # noqa: ARG001 - new since
        await charges(order)
        await packs([order, order], {"a": order})
        await publish("order", order)
        await child(order)
        await start(child, order, id="kid-of-" + order.id)
        await send("listener", "order", order)
        return await receive("go", str)

    flow.__annotations__ = {"order": order, "extra": int, "return": str}

    async def listens() -> str:
        await receive("order", order)
        return await receive("end", str)

    return SimpleNamespace(
        flow=workflow(name="flow")(flow), kid=child, listens=workflow(name="listens")(listens), order=order
    )


def served(version: SimpleNamespace) -> list[Any]:
    return [version.flow, version.kid, version.listens]


@pytest.mark.parametrize("make", MAKERS)
def test_fields_with_defaults_are_added_under_running_runs(make: Callable[..., Any], database: Path) -> None:
    calls: list[str] = []
    old = checkout(make(OLD, {}), calls)
    with TestEngine(database, workflows=served(old)) as engine:
        engine.start(old.listens, id="listener")
        engine.start(old.flow, made(old.order, "42"), id="order-42")
        engine.idle()
        assert engine.get("order-42").status == "waiting"
        engine.crash()
        new = checkout(make(NEW, DEFAULTS), calls)
        engine.reopen(workflows=served(new))
        assert engine.start(new.flow, made(new.order, "42"), id="order-42").id == "order-42"
        assert engine.start(new.flow, made(new.order, "42", "EUR"), id="order-42", kwargs={"extra": 3}).id == "order-42"
        with pytest.raises(RunConflict, match=r"order.currency|order\[1\]|other input"):
            engine.start(new.flow, made(new.order, "42", "USD"), id="order-42")
        run = engine.get("order-42")
        run.send("go", "x")
        assert run.result(60) == "x"
        engine.get("listener").send("end", "y")
        assert engine.get("listener").result(60) == "y"
    assert calls == ["charge", "pack"]


@pytest.mark.parametrize("make", MAKERS)
def test_arguments_made_with_the_new_class_are_those_that_were_recorded(make: Callable[..., Any]) -> None:
    old, new = make(OLD, {}), make(NEW, DEFAULTS)
    shapes: list[Callable[[Callable[[str], Any]], Any]] = [
        lambda order: order("42"),
        lambda order: [order("1"), {"a": (order("2"), 5)}],
        lambda order: {"b": order("1"), "a": [order("2")]},
    ]
    of_old, of_new = functools.partial(made, old), functools.partial(made, new)
    for shape in shapes:
        recorded = CODEC.fingerprint((shape(of_old), 1), {"x": shape(of_old)}, "")
        assert is_recorded(recorded, (shape(of_new), 1), {"x": shape(of_new)}, None)
        assert not is_recorded(recorded, (shape(of_new), 2), {"x": shape(of_new)}, None)
        assert not is_recorded(recorded, (shape(lambda name: made(new, name, "USD")), 1), {"x": shape(of_new)}, None)


def test_of_several_default_values_those_that_are_new_are_left_out() -> None:
    fields = {"id": str, "a": int, "b": int, "c": list[int], "d": int}
    defaults = {"a": 1, "b": 2, "c": list, "d": 4}
    full = as_dataclass(fields, defaults)
    for old in ({"id": str, "b": int}, {"id": str, "a": int, "c": list[int]}, {"id": str, "b": int, "d": int}):
        before = as_dataclass(old, {name: defaults[name] for name in old if name != "id"})
        assert is_recorded(CODEC.fingerprint((before("x"),), {}, ""), (full("x"),), {}, None)


def test_a_parameter_that_is_given_its_default_is_as_good_as_none(engine: TestEngine) -> None:
    def version(**note: Any) -> Any:
        @step(name="charge")
        async def charge(order: str, note: str = "none", *, more: int = 0) -> str:
            return order + note + str(more)

        @workflow(name="flow")
        async def flow(order: str) -> str:
            charged = await charge(order, **note)
            await receive("go")
            return charged

        return flow

    run = engine.start(version(), "a")
    engine.idle()
    engine.crash()
    engine.reopen(workflows=[version(note="none")])
    run.send("go")
    assert run.result(60) == "anone0"


ORDERS = """
from dataclasses import dataclass
from stepwell import receive, step, workflow
@dataclass
class Order:
    id: str
@step(name="edited.charge")
def charge(order: Order) -> Order:
    calls.append(order.id)
    return order
@workflow(name="edited.checkout")
async def checkout(order: Order) -> str:
    charged = charge(order)
    await receive("go")
    return f"{charged}"
calls: list[str] = []
"""


def test_code_moves_to_another_module_and_gets_fields_and_parameters_at_once(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = (
        ORDERS.replace("    id: str\n", "    id: str\n    currency: str = 'EUR'\n")
        .replace("def charge(order: Order)", "def charge(order: Order, express: bool = False)")
        .replace("checkout(order: Order)", "checkout(order: Order, notify: bool = True)")
        .replace("charge(order)\n", "charge(order, express=False)\n")
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "edited_before.py").write_text(ORDERS)
    (tmp_path / "edited_behind.py").write_text(edited)
    before = importlib.import_module("edited_before")
    with TestEngine(database, workflows=[before.checkout]) as engine:
        run = engine.start(before.checkout, before.Order("42"), id="42")
        engine.idle()
        engine.crash()
        del sys.modules["edited_before"]
        behind = importlib.import_module("edited_behind")
        engine.reopen(workflows=[behind.checkout])
        assert engine.start(behind.checkout, behind.Order("42"), id="42", kwargs={"notify": True}).id == "42"
        run.send("go")
        assert run.result(60) == "Order(id='42', currency='EUR')"
    assert (before.calls, behind.calls) == (["42"], [])
    del sys.modules["edited_behind"]


# --- what is no harmless edit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [as_dataclass, as_struct, as_pydantic, as_attrs])
def test_a_field_without_a_default_is_named(make: Callable[..., Any], database: Path) -> None:
    old, new = checkout(make(OLD, {}), []), checkout(make({"id": str, "currency": str}, {}), [])
    with TestEngine(database, workflows=served(old)) as engine:
        engine.start(old.listens, id="listener")
        run = engine.start(old.flow, made(old.order, "42"), id="order-42")
        engine.idle()
        engine.crash()
        engine.reopen(workflows=served(new))
        with pytest.raises(RunConflict, match=r"order.currency is new"):
            engine.start(new.flow, made(new.order, "42", "EUR"), id="order-42")
        run.send("go", "x")
        with pytest.raises(RunHalted, match="currency"):
            run.result(60)


@pytest.mark.parametrize("make", [as_dataclass, as_slots, as_struct, as_pydantic, as_attrs])
def test_a_field_that_is_gone_is_named(make: Callable[..., Any], database: Path) -> None:
    old, new = checkout(make(NEW, DEFAULTS), []), checkout(make(OLD, {}), [])
    with TestEngine(database, workflows=served(old)) as engine:
        engine.start(old.listens, id="listener")
        run = engine.start(old.flow, made(old.order, "42"), id="order-42")
        engine.idle()
        engine.crash()
        engine.reopen(workflows=served(new))
        with pytest.raises(RunConflict, match=r"order.currency is missing"):
            engine.start(new.flow, made(new.order, "42"), id="order-42")
        run.send("go", "x")
        with pytest.raises(RunHalted, match=r"order.currency .* was recorded, and .*Order does not have it any more"):
            run.result(60)


def test_a_renamed_field_is_named_on_both_sides(database: Path) -> None:
    old = checkout(as_dataclass({"id": str, "curr": str}, {"curr": "EUR"}), [])
    new = checkout(as_dataclass({"id": str, "currency": str}, {"currency": "EUR"}), [])
    with TestEngine(database, workflows=served(old)) as engine:
        engine.start(old.listens, id="listener")
        engine.start(old.flow, made(old.order, "42"), id="order-42")
        engine.idle()
        engine.reopen(workflows=served(new))
        with pytest.raises(RunConflict, match=r"order.curr is missing, order.currency is new"):
            engine.start(new.flow, made(new.order, "42"), id="order-42")


def test_a_step_that_is_given_a_new_field_says_which(engine: TestEngine) -> None:
    def version(value: Any) -> Any:
        @step(name="charge")
        async def charge(order: Any) -> None: ...

        @workflow(name="flow")
        async def flow() -> None:
            await charge(value)
            await receive("go")

        return flow

    old, new = as_dataclass(OLD, {}), as_dataclass(NEW, DEFAULTS)
    run = engine.start(version(old("42")))
    engine.idle()
    engine.reopen(workflows=[version(new("42", "USD"))])
    run.send("go")
    with pytest.raises(DeterminismError, match=r"new since it was recorded: the field `currency` of .*Order, with"):
        run.result(60)


def test_words_for_what_is_new() -> None:
    old, new = as_dataclass(OLD, {}), as_dataclass({"id": str, "currency": str}, {})
    recorded = CODEC.fingerprint(([old("1")],), {}, "")
    told = what_is_new(recorded, ([new("1", "EUR")],), {}, None)
    assert told is not None
    assert "the field `currency` of" in told
    assert "which has no default" in told
    assert what_is_new(recorded, ([new("2", "EUR")],), {}, None) is None


def test_a_model_that_mends_old_fields_itself_is_trusted() -> None:
    class Mending(pydantic.BaseModel):
        currency: str

        @pydantic.model_validator(mode="before")
        @classmethod
        def _renamed(cls, data: dict[str, Any]) -> dict[str, Any]:
            return {"currency": data.get("currency", data.get("curr"))}

    class Aliased(pydantic.BaseModel):
        currency: str = pydantic.Field(validation_alias=pydantic.AliasChoices("currency", "curr"))

    for model in (Mending, Aliased):
        assert CODEC.decode('{"curr":"EUR"}', model, "").currency == "EUR"

    class Plain(pydantic.BaseModel):
        currency: str = "EUR"

    with pytest.raises(SerializationError, match=r"\$\[0\].curr was recorded, and .*Plain does not have it"):
        CODEC.decode('[{"currency":"EUR","curr":"x"}]', list[Plain], "")


def test_a_typed_dict_may_get_keys_that_are_not_required() -> None:
    class Old(TypedDict):
        id: str

    class New(TypedDict):
        id: str
        currency: NotRequired[str]

    payload = CODEC.encode(Old(id="1"), "")
    assert CODEC.decode(payload, New, "") == {"id": "1"}
    with pytest.raises(SerializationError, match=r"\$.currency was recorded"):
        CODEC.decode('{"id":"1","currency":"EUR"}', Old, "")


# --- tracebacks -------------------------------------------------------------------------------------------------------

REPORT = """
import traceback
from stepwell import receive, step, workflow
@step(name="fail")
async def fail() -> None:
    raise ValueError("no")
@step(name="report")
async def report(text: object) -> None: ...
@workflow(name="flow")
async def flow(kind: str) -> str:
    try:
        await fail()
    except Exception as error:
        if kind == "text": await report(traceback.format_exc())
        if kind == "lines": await report(traceback.format_exception(error))
        if kind == "group": await report({"all": "".join(traceback.format_exception(ExceptionGroup("g", [error])))})
        if kind == "notes": await report(error.__notes__)
    return await receive("go", str)
"""


def code(source: str, path: Path) -> Any:
    names: dict[str, Any] = {"__name__": "reports"}
    path.write_text(source)
    exec(compile(source, str(path), "exec"), names)
    return names["flow"]


@pytest.mark.parametrize("kind", ["text", "lines", "group", "notes"])
def test_the_text_of_a_traceback_may_change_with_the_code_around_it(
    kind: str, engine: TestEngine, tmp_path: Path
) -> None:
    run = engine.start(code(REPORT, tmp_path / "one.py"), kind)
    engine.idle()
    assert run.status == "waiting"
    (tmp_path / "elsewhere").mkdir()
    engine.crash()
    engine.reopen(
        workflows=[
            code(
                "# a comment\n" * 5 + REPORT.replace("await fail()", "await fail()  # x"), tmp_path / "elsewhere/two.py"
            )
        ]
    )
    run.send("go", "x")
    assert run.result(60) == "x"


def test_what_was_raised_is_still_told_apart() -> None:
    def text(error: Exception) -> str:
        try:
            raise error
        except type(error):
            return traceback.format_exc()

    def of(value: object) -> int:
        return CODEC.fingerprint((value,), {}, "")

    assert of(text(ValueError("a"))) == of(text(ValueError("a")).replace("line ", "line 1"))
    assert of(text(ValueError("a"))) != of(text(ValueError("b")))
    assert of(text(ValueError("a"))) != of(text(KeyError("a")))
    assert of('see File "x.py", page 3') != of('see File "y.py", page 3')
    assert isinstance(RunConflict(""), StepwellError)
