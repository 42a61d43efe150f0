"""What a worker tells of itself while it draws: metrics, traces, log lines, and whether it is well.

All of it hangs on one list of moments (`worker.telemetry.events`); `observing` puts together who is told. Nothing is
imported here, so that a health check costs little.
"""
