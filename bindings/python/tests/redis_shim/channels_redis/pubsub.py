"""The name that test_pubsub.py imports."""

from .core import RedisChannelLayer


class RedisPubSubChannelLayer(RedisChannelLayer):
    pass
