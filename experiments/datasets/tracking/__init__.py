"""Detections and tracks: a made scene, files, MOTChallenge folders; boxes."""
