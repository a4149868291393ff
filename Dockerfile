# One image for every role. Build: docker build -t coproc .
# The GPU variant: docker build --build-arg EXTRAS="--extra gpu" -t coproc:gpu .
FROM python:3.12-slim-bookworm AS build
ARG EXTRAS=""
ENV UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN pip install --no-cache-dir "uv>=0.9,<1"
WORKDIR /app
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --no-install-project ${EXTRAS}
COPY coproc coproc
COPY nurseries nurseries
COPY gpu_kernels gpu_kernels
RUN uv sync --frozen --no-dev --no-editable ${EXTRAS}

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin coproc
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
# gRPC, websocket results, health
EXPOSE 50051 50052 8080
# An external Postgres is expected: COPROC_DATABASE_URL=postgresql://...
ENTRYPOINT ["coproc"]
CMD ["serve", "--host", "0.0.0.0"]
