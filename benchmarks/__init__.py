"""The measurements that we publish: ``python -m benchmarks.publish``. The method is in README.md."""
