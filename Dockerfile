# docker build -t vae-service .                                                    torch's CPU build
# docker build -t vae-service --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cu130 .   a CUDA build
FROM python:3.11-slim AS build
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.13.0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/vae
# torch alone in its layer: it is by far the largest, and seldom changes
RUN /opt/vae/bin/pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "torch==$TORCH_VERSION"
WORKDIR /src
COPY . .
RUN /opt/vae/bin/pip install .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home vae
COPY --from=build /opt/vae /opt/vae
ENV PATH=/opt/vae/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 VAE_HOST=0.0.0.0 VAE_PORT=8000
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"VAE_PORT\"]}/readyz', timeout=2)"]
CMD ["vae-serve"]
