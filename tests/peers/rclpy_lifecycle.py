"""What rclpy's own lifecycle node answers. `python rclpy_lifecycle.py` records it in tests/data/rclpy_lifecycle.json for the unit tests
of the node's state machine; test_wire_lifecycle.py holds the record against the rclpy that is installed."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.lifecycle import TransitionCallbackReturn as Return

RECORD = Path(__file__).resolve().parents[1] / "data" / "rclpy_lifecycle.json"
# How each state that a node rests in is reached from a new node.
REST = {"unconfigured": [], "inactive": ["configure"], "active": ["configure", "activate"], "finalized": ["shutdown"]}


class Peer(LifecycleNode):
    """A lifecycle node whose callbacks return what `returns` holds, then success."""

    def __init__(self, name: str, context: Context) -> None:
        self.returns: list[Return] = []
        super().__init__(name, context=context)
        self.get_logger().set_level(rclpy.logging.LoggingSeverity.FATAL)

    def _next(self, _state) -> Return:
        return self.returns.pop(0) if self.returns else Return.SUCCESS

    on_configure = on_cleanup = on_activate = on_deactivate = on_shutdown = on_error = _next

    def change(self, id: int = 0, label: str = "") -> bool:
        """Answer of the service to a request, without a middleware in between."""
        request = ChangeState.Request(transition=Transition(id=id, label=label))
        return self._LifecycleNodeMixin__on_change_state(request, ChangeState.Response()).success

    @property
    def state(self) -> str:
        return self._state_machine.current_state[1]


@contextmanager
def peer_at_work(name: str, domain: int) -> Iterator[Peer]:
    """A peer that answers on the wire."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    peer = Peer(name, context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(peer)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield peer
    finally:
        rclpy.shutdown(context=context)
        thread.join()


def _rows(transitions) -> list[list]:
    return [[id, label, start, goal] for id, label, start, _, goal, _ in transitions]


def record(context: Context) -> dict:
    """The states, the graph, what is accepted where, and where every way of ending leads."""
    count = 0

    def resting(state: str) -> Peer:
        nonlocal count
        count += 1
        peer = Peer(f"peer_{count}", context)
        assert all(peer.change(label=label) for label in REST[state])
        assert peer.state == state
        return peer

    peer = resting("unconfigured")
    graph = _rows(peer._state_machine.transition_graph)
    result = {"states": [list(state) for state in peer._state_machine.available_states], "graph": graph}
    result |= {"available": {}, "accepted_ids": {}, "accepted_labels": {}, "walks": {}}
    labels = list(dict.fromkeys(label for _, label, _, _ in graph))
    for state in REST:
        peer = resting(state)
        result["available"][state] = _rows(peer._state_machine.available_transitions)
        requests = [("accepted_ids", {"id": id}) for id in range(256)] + [("accepted_labels", {"label": label}) for label in labels]
        for kind, request in requests:
            accepted = result[kind].setdefault(state, [])
            if peer.change(**request):
                accepted.append(*request.values())
            if peer.state != state:
                peer.destroy_node()
                peer = resting(state)
        peer.destroy_node()
        for label in result["accepted_labels"][state]:
            ways = [[Return.SUCCESS], [Return.FAILURE], *([Return.ERROR, after] for after in (Return.SUCCESS, Return.FAILURE, Return.ERROR))]
            for returns in ways:
                peer = resting(state)
                walk = " ".join([state, label, *(value.to_label() for value in returns)])
                peer.returns = list(returns)
                peer.change(label=label)
                result["walks"][walk] = peer.state
                peer.destroy_node()
    return result


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    # It warns of every request that is refused.
    rclpy.logging.set_logger_level("rcl_lifecycle", rclpy.logging.LoggingSeverity.FATAL)
    context = Context()
    rclpy.init(context=context)
    found = record(context)
    rclpy.shutdown(context=context)
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    logging.info("Wrote %s", RECORD)
