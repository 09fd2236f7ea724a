"""Measuring: every engine beside what one would use instead, on the same minibatches."""

from .report import BenchReport, Errand, Overhead, Timing, WordTiming
from .timing import bench

__all__ = ["BenchReport", "Errand", "Overhead", "Timing", "WordTiming", "bench"]
