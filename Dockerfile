# syntax=docker/dockerfile:1
# One image for every role, in two variants:
#   docker build --target cpu -t coproc:0.1.0 .
#   docker build --target gpu -t coproc:0.1.0-gpu .
# Python 3.11 is what all tests run on. Everything comes from uv.lock. No compiler, no uv and no tests get in.
FROM python:3.11-slim-bookworm AS build
ENV UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1
RUN pip install --no-cache-dir "uv==0.13.9"
WORKDIR /app
# Dependencies first: they change less often than the code.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --no-install-project --extra s3
COPY coproc coproc
COPY nurseries nurseries
COPY gpu_kernels gpu_kernels
RUN uv sync --frozen --no-dev --no-editable --extra s3

FROM build AS build-gpu
RUN uv sync --frozen --no-dev --no-editable --extra s3 --extra gpu

FROM python:3.11-slim-bookworm AS base
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin coproc
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 COPROC_HOST=0.0.0.0
# gRPC, websocket of results, health and metrics
EXPOSE 50051 50052 50053
STOPSIGNAL SIGTERM
# A Postgres is expected: COPROC_DATABASE_URL=postgresql://...
ENTRYPOINT ["coproc"]
CMD ["serve"]

# The driver comes from the node.
FROM base AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /app/.venv /app/.venv
USER 10001:10001

FROM base AS cpu
COPY --from=build /app/.venv /app/.venv
USER 10001:10001
