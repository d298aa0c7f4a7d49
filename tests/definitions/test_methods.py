"""Steps and workflows inside classes: of classes, of instances, static; inherited, abstract, in dataclasses."""

from __future__ import annotations

import abc
import asyncio
import copy
import enum
import functools
import inspect
import pickle
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

import stepwell
from stepwell import DefinitionError, Engine, step, sync, transaction, workflow
from stepwell.testing import TestEngine


class Orders:
    rate = 10

    @classmethod
    @workflow
    async def price(cls: Any, number: int) -> int:
        return int(number * cls.rate + await cls.extra(1))

    @classmethod
    @step
    async def extra(cls, number: int) -> int:
        return number + cls.rate

    @classmethod
    @step
    def now(cls, number: int) -> int:
        return number - cls.rate

    @classmethod
    @workflow
    def plain_price(cls: Any, number: int) -> int:
        return int(number * cls.rate + cls.now(1) + sync.call(cls.extra, 1))

    @workflow
    @classmethod
    async def price_below(cls: Any, number: int) -> int:
        return int(number * cls.rate + cls.now_below(1))

    @step
    @classmethod
    def now_below(cls, number: int) -> int:
        return number - cls.rate

    @staticmethod
    @workflow
    async def double(number: int) -> int:
        return Orders.twice(number)

    @workflow
    @staticmethod
    async def double_below(number: int) -> int:
        return Orders.twice_below(number)

    @staticmethod
    @step
    def twice(number: int) -> int:
        return 2 * number

    @step
    @staticmethod
    def twice_below(number: int) -> int:
        return 2 * number

    @classmethod
    @step(isolate="process")
    def isolated(cls, number: int) -> int:
        return number * cls.rate

    @staticmethod
    @step(isolate="process")
    def isolated_without(number: int) -> int:
        return 3 * number

    @classmethod
    @workflow
    async def isolates(cls: Any) -> list[int]:
        return [cls.isolated(2), cls.isolated_without(2)]


class Sale(Orders):
    rate = 1


# Type checkers bind what is a function, and take these for functions of the class and a number.
ORDERS: Any = Orders
SALE: Any = Sale


WORKFLOWS = ["price", "plain_price", "price_below", "double", "double_below"]
PRICES = {"price": 31, "plain_price": 22, "price_below": 11, "double": 4, "double_below": 4}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_methods_of_classes_and_static_ones_are_workflows(engine: TestEngine, name: str) -> None:
    declared: Any = getattr(Orders, name)
    assert engine.start(declared, 2).result(60) == PRICES[name]
    assert engine.start(getattr(Orders(), name), 2).result(60) == PRICES[name]
    with engine.transaction() as tx:
        run = tx.start(declared, 2, id="in a transaction")
    assert run.result(60) == PRICES[name]
    assert run.workflow == f"{__name__}.Orders.{name}"
    assert engine.list(workflow=run.workflow)[0].id == run.id


def test_outside_of_runs_they_are_the_plain_methods() -> None:
    assert asyncio.run(ORDERS.price(2)) == 31
    assert asyncio.run(SALE.price(2)) == 4
    assert asyncio.run(ORDERS.price_below(2)) == 11
    assert SALE.now(5) == 4
    assert asyncio.run(ORDERS().double(3)) == 6
    assert inspect.iscoroutinefunction(ORDERS.price)
    assert not inspect.iscoroutinefunction(ORDERS.plain_price)
    assert list(inspect.signature(ORDERS.price).parameters) == ["number"]


def test_class_methods_are_workflows_and_steps_inside_of_runs(engine: TestEngine) -> None:
    @workflow(name="calls")
    async def calls() -> list[Any]:
        child = await stepwell.start(ORDERS.price, 2)
        return [
            await ORDERS.price(2),
            await child.result(),
            await stepwell.map(ORDERS.price, [1, 2]),
            await stepwell.map(ORDERS.now, [1, 2]),
            await asyncio.to_thread(ORDERS.now, 11),
            ORDERS.plain_price(2),
            SALE.now(5),  # a step is told its class with the call
            await SALE.extra(5),
            ORDERS().now(11),
        ]

    run = engine.start(calls)
    assert run.result(60) == [31, 31, [21, 31], [-9, -8], 1, 22, 4, 6, 1]
    assert "Orders" not in "".join(str(entry.value) for entry in run.journal())


def test_a_class_that_only_inherits_a_workflow_is_refused_with_advice(engine: TestEngine) -> None:
    for inherited in (SALE.price, SALE().plain_price):
        with pytest.raises(DefinitionError, match="Declare it in Sale as well"):
            engine.start(inherited, 2)

    @workflow(name="calls")
    async def calls() -> str:
        with pytest.raises(DefinitionError, match="Sale"):
            await SALE.price(2)
        return "refused"

    assert engine.start(calls).result(60) == "refused"

    class Own(Orders):
        rate = 2

        @classmethod
        @workflow
        async def price(cls, number: int) -> int:
            return 100 + int(await asyncio.shield(cast("Any", super()).extra(number)))

    assert engine.start(cast("Any", Own).price, 1).result(60) == 103


def test_a_class_inside_a_function_has_workflows_too(engine: TestEngine) -> None:
    class Local:
        rate = 7

        @classmethod
        @workflow
        async def price(cls, number: int) -> int:
            await asyncio.sleep(60)
            return cls.rate * number

    local: Any = Local
    run = engine.start(local.price, 2)
    engine.idle().crash()
    engine.reopen().advance(60)
    assert run.result(60) == 14
    assert engine.reopen(workflows=[local.price]).start(local.price, 3, id="x").id == "x"
    engine.advance(60)
    assert engine.get("x").result(60) == 21


PROGRAM = """
import sys
from stepwell import Engine, receive, step, workflow

class Shop:
    rate = 10

    @classmethod
    @workflow
    async def price(cls, number):
        await receive("go")
        return number * cls.rate + cls.add(1)

    @workflow
    @classmethod
    async def other(cls, number):
        await receive("go")
        return number * cls.rate + cls.add(1)

    @classmethod
    @step
    def add(cls, number):
        return number + cls.rate

if __name__ == "__main__":
    with Engine("shop.db") as engine:
        if sys.argv[1] == "start":
            engine.start(Shop.price, 2, id="a")
            engine.start(Shop.other, 3, id="b")
        else:
            for name in "ab":
                engine.send(name, "go")
                print(engine.get(name).result(timeout=30))
"""


def test_a_process_that_only_imports_the_class_carries_its_runs_on(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(textwrap.dedent(PROGRAM))
    said: list[str] = []
    for word in ("start", "go on"):
        done = subprocess.run(
            [sys.executable, "shop.py", word], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout.split()
    assert said == ["31", "41"]


def test_isolated_steps_may_be_methods_of_the_class_that_declares_them(database: Path) -> None:
    with Engine(database) as engine:
        assert engine.start(ORDERS.isolates).result(60) == [20, 6]

        @workflow(name="calls")
        async def calls() -> int:
            return int(SALE.isolated(2))

        with pytest.raises(DefinitionError, match="class that inherits it"):
            engine.start(calls).result(60)


# --- of instances -----------------------------------------------------------------------------------------------------


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    @step
    async def charge(self, amount: int) -> str:
        return f"{self.name} charged {amount}"

    @step
    def refund(self, amount: int) -> str:
        return f"{self.name} refunded {amount}"

    @property
    @step
    def title(self) -> str:
        return f"the {self.name}"

    refund_two = functools.partialmethod(refund, 2)

    @workflow
    async def trades(self) -> None: ...


class Branch(Shop):
    @step
    async def charge(self, amount: int) -> str:
        return f"branch: {await super().charge(amount)}"


SHOP, BRANCH = Shop("corner"), Branch("north")


def test_steps_of_instances_are_found_however_they_are_called(engine: TestEngine) -> None:
    @workflow(name="trades")
    async def trades() -> list[Any]:
        bound: Any = SHOP.refund
        return [
            await SHOP.charge(1),
            SHOP.refund(1),
            Shop.refund(SHOP, 1),
            Shop.refund.options(timeout=5)(SHOP, 1),
            await asyncio.to_thread(SHOP.refund, 1),
            await stepwell.map(SHOP.charge, [1]),
            bound.options(timeout=5)(1),
            SHOP.refund_two(),
            SHOP.title,
            await BRANCH.charge(1),
            BRANCH.refund(1),
        ]

    run = engine.start(trades)
    assert run.result(60) == [
        "corner charged 1", "corner refunded 1", "corner refunded 1", "corner refunded 1", "corner refunded 1",
        ["corner charged 1"], "corner refunded 1", "corner refunded 2", "the corner",
        "branch: north charged 1", "north refunded 1",
    ]  # fmt: skip
    assert "object at" not in "".join(str(entry.value) for entry in run.journal())


def test_bound_steps_look_like_bound_methods() -> None:
    bound: Any = SHOP.refund
    assert list(inspect.signature(bound).parameters) == ["amount"]
    assert list(inspect.signature(Shop.refund).parameters) == ["self", "amount"]
    assert bound.__self__ is SHOP
    assert not hasattr(Shop.refund, "__self__")
    assert inspect.iscoroutinefunction(SHOP.charge)
    assert bound.__get__(BRANCH, Branch) is bound  # as bound methods do not bind again


def test_bound_steps_are_pickled_and_copied_with_their_instances() -> None:
    twin: Any = pickle.loads(pickle.dumps(SHOP.refund))
    assert twin(1) == "corner refunded 1"
    assert twin.__self__ is not SHOP
    copied: Any = copy.deepcopy({"shop": SHOP, "refund": SHOP.refund})
    assert copied["refund"].__self__ is copied["shop"]
    assert copy.copy(SHOP.refund)(1) == "corner refunded 1"
    configured: Any = pickle.loads(pickle.dumps(SHOP.refund.options(timeout=5)))
    assert (configured.step_options.timeout_seconds, configured(1)) == (5, "corner refunded 1")
    assert pickle.loads(pickle.dumps(ORDERS.now))(11) == 1
    assert pickle.loads(pickle.dumps(ORDERS.price)) == ORDERS.price


@pytest.mark.parametrize("bound", [SHOP.trades, BRANCH.trades], ids=["own", "inherited"])
def test_a_workflow_of_an_instance_is_refused_with_advice(engine: TestEngine, bound: Any) -> None:
    with pytest.raises(DefinitionError, match="@staticmethod or a @classmethod"):
        engine.start(bound)

    @workflow(name="calls")
    async def calls() -> str:
        with pytest.raises(DefinitionError, match="bound to an object"):
            await bound()
        return "refused"

    assert engine.start(calls).result(60) == "refused"


def test_transactions_as_methods_say_where_to_declare_them(engine: TestEngine) -> None:
    with pytest.raises(DefinitionError, match="@staticmethod"):

        class Wrong:
            @transaction  # type: ignore[arg-type]  # which is the point
            @classmethod
            def book(cls, _connection: Any) -> None: ...

    class Late:
        @classmethod
        @transaction  # type: ignore[arg-type]  # which is the point
        def book(cls, _connection: Any) -> None: ...

        @staticmethod
        @transaction
        def fine(_connection: Any, number: int) -> int:
            return number

    @workflow(name="books")
    async def books() -> int:
        with pytest.raises(DefinitionError, match="@staticmethod"):
            cast("Any", Late).book()
        return Late.fine(5)

    assert engine.start(books).result(60) == 5
    assert "Wrong" not in locals()


# --- classes of every kind --------------------------------------------------------------------------------------------


class Abstract(abc.ABC):
    @step
    @abc.abstractmethod
    def below(self) -> str: ...

    @abc.abstractmethod
    @step
    def above(self) -> str: ...


class Concrete(Abstract):
    @step
    def below(self) -> str:
        return "below"

    @step
    def above(self) -> str:
        return "above"


@dataclass
class Data:
    name: str

    @step
    def greet(self, word: str) -> str:
        return f"{word} {self.name}"


@dataclass(frozen=True, slots=True)
class Slots:
    name: str

    @step
    def greet(self, word: str) -> str:
        return f"{word} {self.name}"

    @classmethod
    @step
    def made(cls, name: str) -> str:
        return cls(name).name


class Greets(Protocol):
    def greet(self, word: str) -> str: ...


class Colour(enum.Enum):
    RED = "red"

    @step
    def greet(self, word: str) -> str:
        return f"{word} {self.value}"


def test_classes_of_every_kind_have_steps(engine: TestEngine) -> None:
    assert Abstract.__abstractmethods__ == {"below", "above"}
    with pytest.raises(TypeError, match="abstract"):
        Abstract()  # type: ignore[abstract]
    assert [each.name for each in Colour] == ["RED"]

    @workflow(name="greets")
    async def greets() -> list[str]:
        concrete = Concrete()
        greeters: list[Greets] = [Data("data"), Slots("slots"), Colour.RED]
        return [
            concrete.below(),
            concrete.above(),
            *[each.greet("hi") for each in greeters],
            cast("Any", Slots).made("made"),
        ]

    assert engine.start(greets).result(60) == ["below", "above", "hi data", "hi slots", "hi red", "made"]
