"""Latencies of a parent on a target: this machine, a kit, a device over ssh, stored profiles."""
