"""Stands in for channels_redis, so that its own tests run unchanged against corecast's layer."""
