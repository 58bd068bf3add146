"""Everything between a chunk and the arm, pure: no torch, no ROS, no sleeping, time is an argument.

The one object a node needs is `executor.Executor`:

    executor = Executor(robot: RobotSpec, config: ExecutorConfig, collision: CollisionGate | None = None)
    executor.on_joint_state(names, positions, stamp_ns, now, velocities=None) -> Refusal | None
    executor.on_chunk(chunk: ActionChunk, now)                                -> Refusal | None
    executor.on_teleop(command: TeleopCommand, now)                           -> Refusal | None
    executor.on_request(mode: "hold" | "teleop" | "policy", now)              -> Refusal | None
    executor.on_clear_fault(now)                                              -> Refusal | None
    executor.on_planned_motion(motion: PlannedMotion, now)                    -> Refusal | None
    executor.on_estop(pressed: bool, now)
    executor.on_controller_result(ok: bool, detail: str, now)
    executor.on_publishers(count: int, now)
    executor.tick(now) -> TickOutput(segment | None, status, handover, faults)

`now` is one `core.clock.Now`, read once per callback. Nothing here raises at run time: refusals and faults are values.
"""
