worker_class = "uvicorn_worker.UvicornWorker"
workers = 4

import corecast.gunicorn

corecast.gunicorn.install(globals())
