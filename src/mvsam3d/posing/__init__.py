"""Poses found and refined by laying the finished mesh over photos and measured points."""
