# The service as one image: CPU by default, every published model inside, no shell needed to run it.
#   docker build -t restore .                               CPU
#   docker build -t restore --build-arg LOCK=gpu.txt .      NVIDIA GPU (run with --gpus all)

FROM python:3.12-slim AS environment
ARG LOCK=serve.txt
COPY requirements/${LOCK} /opt/requirements.txt
RUN python -m venv /opt/venv
RUN /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /opt/requirements.txt

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin restore
WORKDIR /srv/restore
COPY --from=environment /opt/venv /opt/venv
COPY LICENSE NOTICE ./
COPY models models
COPY app app
# A volume that is mounted here for the first time takes its owner from the image.
RUN mkdir var
RUN chown 10001 var
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    RESTORE_HOST=0.0.0.0 \
    RESTORE_PORT=8000
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['RESTORE_PORT'] + '/livez', timeout=4)"]
CMD ["python", "-m", "app"]
