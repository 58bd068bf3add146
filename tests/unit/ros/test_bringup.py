"""Ordered start, retries, crashes and hangs, under a time that the test turns."""

from __future__ import annotations

from dataclasses import replace

from internvla_a1.nodes.lifecycle_manager import ManagerParams, bringup_config
from internvla_a1.ros.bringup import ACTIVE, INACTIVE, UNCONFIGURED, Action, Bringup, BringupConfig, Step, resolve
from internvla_a1.ros.heartbeat import Beat

A, B = "/a", "/b"


class World:
    """Nodes that obey, unless told otherwise."""

    def __init__(self, **config):
        self.bringup = Bringup(BringupConfig((A, B), **config))
        self.now = 100.0
        self.states: dict[str, str] = {}
        self.pids: dict[str, int] = {}
        self.refusing: set[str] = set()
        self.deaf: set[str] = set()
        self.done: list[tuple[str, Step]] = []
        self.killed: list[int] = []

    def appear(self, node, pid):
        self.states[node], self.pids[node] = UNCONFIGURED, pid

    def run(self, seconds):
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            for node, state in self.states.items():
                self.bringup.on_beat(Beat(node, state, self.pids[node]), self.now)
            for action in self.bringup.tick(self.now):
                self.obey(action)
        return self

    def obey(self, action: Action):
        if action.step is Step.KILL:
            self.killed.append(action.pid)
            return
        self.done.append((action.node, action.step))
        if action.node in self.deaf:
            return
        ok = action.node not in self.refusing and action.node in self.states
        goals = {Step.CONFIGURE: INACTIVE, Step.ACTIVATE: ACTIVE, Step.DEACTIVATE: INACTIVE, Step.CLEANUP: UNCONFIGURED}
        if ok:
            self.states[action.node] = goals[action.step]
        self.bringup.on_answer(action.node, action.step, ok, self.now)

    def notes(self):
        return " | ".join(text for _, text in self.bringup.take_notes())


def both_up(**config):
    world = World(**config)
    world.appear(B, 2)
    world.appear(A, 1)
    return world.run(2.0)


def test_nodes_are_configured_in_order_then_activated_in_order():
    world = both_up()
    assert world.done == [(A, Step.CONFIGURE), (B, Step.CONFIGURE), (A, Step.ACTIVATE), (B, Step.ACTIVATE)]
    assert world.bringup.complete and "up: /a, /b" in world.notes()


def test_the_second_waits_for_the_first_to_appear():
    world = World()
    world.appear(B, 2)
    world.run(3.0)
    assert world.done == []
    world.appear(A, 1)
    world.run(1.0)
    assert world.done[0] == (A, Step.CONFIGURE)


def test_a_node_that_never_appears_does_not_hold_up_the_others_for_ever():
    world = World(appear_s=5.0)
    world.appear(B, 2)
    world.run(6.0)
    assert world.states[B] == ACTIVE and not world.bringup.complete


def test_a_node_that_refuses_is_retried_then_given_up_while_the_others_run():
    world = World(max_failures=3, retry_s=1.0)
    world.refusing.add(A)
    world.appear(A, 1)
    world.appear(B, 2)
    world.run(10.0)
    assert world.states[B] == ACTIVE
    assert world.done.count((A, Step.CONFIGURE)) == 4 and world.bringup.state(A) == "given up"
    assert "given up" in world.notes()


def test_a_node_that_comes_back_as_a_new_process_is_brought_up_again():
    world = both_up()
    world.done.clear()
    del world.states[A]
    world.run(1.5)
    assert world.bringup.state(A) == "lost" and not world.bringup.complete
    world.appear(A, 77)
    world.run(1.0)
    assert world.done == [(A, Step.CONFIGURE), (A, Step.ACTIVATE)] and world.bringup.complete


def test_a_node_that_crashes_again_is_brought_up_at_once_again():
    world = both_up(retry_s=5.0)
    for pid in (10, 11, 12):
        world.appear(A, pid)
        world.run(1.0)
        assert world.states[A] == ACTIVE


def test_too_many_crashes_bring_everything_down_where_that_is_asked_for():
    world = both_up(max_failures=2, bring_down=True, retry_s=0.1)
    for pid in (10, 11, 12):
        world.appear(A, pid)
        world.run(1.0)
    assert world.states[B] == UNCONFIGURED and not world.bringup.wanted_up


def test_a_hung_process_is_killed_once():
    world = both_up(kill_silent_s=3.0)
    del world.states[B]
    world.run(10.0)
    assert world.killed == [2]


def test_a_node_that_is_loading_may_be_silent():
    world = World(transition_s=60.0, kill_silent_s=3.0)
    world.appear(A, 1)
    world.appear(B, 2)
    world.deaf.add(A)
    world.run(0.2)
    state = world.states.pop(A)
    world.run(30.0)
    assert world.killed == [] and world.bringup.state(A) == UNCONFIGURED
    world.states[A] = INACTIVE if state == UNCONFIGURED else state  # it got there, its answer was lost
    world.deaf.clear()
    world.run(1.0)
    assert world.states[A] == ACTIVE


def test_a_request_that_was_not_heard_is_repeated():
    world = World()
    world.appear(A, 1)
    world.appear(B, 2)
    world.deaf.add(A)
    world.run(1.0)
    world.deaf.clear()
    world.run(5.0)
    assert world.bringup.complete


def test_a_transition_without_end_counts_as_a_failure():
    world = World(transition_s=5.0, max_failures=0, appear_s=0.0)
    world.appear(A, 1)
    world.deaf.add(A)
    world.run(0.2)
    del world.states[A]
    world.run(6.0)
    assert world.bringup.state(A) == "given up"


def test_bring_down_goes_in_reverse_order_and_up_again_forgives():
    world = both_up()
    world.done.clear()
    world.bringup.ask(False)
    world.run(1.0)
    assert world.done == [(B, Step.DEACTIVATE), (A, Step.DEACTIVATE), (B, Step.CLEANUP), (A, Step.CLEANUP)]
    world.bringup.ask(True)
    world.run(1.0)
    assert world.bringup.complete


def test_a_stranger_is_ignored():
    world = both_up()
    world.bringup.on_beat(Beat("/c", ACTIVE, 9), world.now)
    assert world.bringup.complete


def test_names_are_relative_to_the_namespace():
    assert resolve(("a", "/x/b", ""), "/cell") == ("/cell/a", "/x/b")
    assert resolve(("a",), "/") == ("/a",)


def test_a_node_that_beats_but_answers_nothing_is_killed_once_and_its_successor_is_brought_up():
    world = both_up(deaf_s=8.0)
    world.appear(A, 11)  # respawned
    world.deaf.add(A)
    world.run(7.0)
    assert world.killed == []
    world.run(10.0)
    assert world.killed == [11] and "/a is heard but has answered nothing for 8 s" in world.notes()
    world.deaf.clear()
    world.appear(A, 12)
    world.run(5.0)
    assert world.states[A] == ACTIVE and world.killed == [11] and world.bringup.complete


def test_where_nothing_may_be_killed_a_deaf_node_is_asked_on():
    world = both_up(kill_silent_s=0.0)
    world.appear(A, 11)
    world.deaf.add(A)
    assert world.run(30.0).killed == []
    world.deaf.clear()
    assert world.run(5.0).states[A] == ACTIVE


def test_a_node_that_crashes_again_and_again_is_brought_up_each_time_at_once_until_it_is_given_up():
    world = both_up(max_failures=2, retry_s=5.0)
    for pid in (77, 78):
        world.done.clear()
        del world.states[A]
        world.run(1.5)
        world.appear(A, pid)
        world.run(1.0)
        assert world.done == [(A, Step.CONFIGURE), (A, Step.ACTIVATE)]
    del world.states[A]
    world.run(1.5)
    world.appear(A, 79)
    world.run(10.0)
    assert world.bringup.state(A) == "given up"


def test_a_node_that_did_a_thing_at_the_first_asking_and_refuses_the_second_has_not_failed():
    world = World()
    world.appear(A, 1)
    world.appear(B, 2)
    world.deaf.add(A)
    world.run(1.0)  # asked more than once, in vain
    world.bringup.on_answer(A, Step.CONFIGURE, False, world.now)
    world.states[A] = INACTIVE
    world.deaf.clear()
    world.run(1.0)
    assert world.bringup.complete and "refused" not in world.notes()


def test_each_parameter_of_the_manager_arrives_where_it_belongs():
    p = ManagerParams(
        heartbeat_timeout=0.7, transition_timeout=9.0, retry_delay=0.3, appear_timeout=4.0, max_failures=3, failure_window=50.0
    )
    kept = bringup_config((A, B), p)
    assert kept == BringupConfig((A, B), 0.7, 9.0, 0.3, 4.0, 3, 50.0, p.kill_silent)
    assert kept.deaf_s == BringupConfig(()).deaf_s and not kept.bring_down
    assert bringup_config((A,), replace(p, on_failure="bring_down")).bring_down
