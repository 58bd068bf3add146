"""From what cameras and drivers send to one synchronised observation, pure: no ROS, time is an argument.

    perception = Perception(robot: RobotSpec, config: PerceptionConfig)
    perception.on_image(camera, stamp_ns, image, content, now)      -> Refusal | None   (image: decode.py's answer)
    perception.on_joint_state(names, positions, stamp_ns, now)      -> Refusal | None
    perception.build(now)                                           -> Observation | Refusal | None
    perception.states(now)                                          -> {camera: CameraState}
"""
