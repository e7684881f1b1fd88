# The gateway as a container: a wheel, built in one stage, and its pinned dependencies in a slim one.
#
#   docker build -t a2a-budget-gateway .
#   docker run -p 8080:8080 -e GATEWAY_AUTH__ADMIN_TOKENS=... -e GATEWAY_DATABASE__DSN=... a2a-budget-gateway

FROM python:3.12-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/gateway && pip install --no-cache-dir "build>=1.2,<2"
COPY deploy/requirements.txt ./
# Hashes are checked, so what was tested is what runs.
RUN /opt/gateway/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md config.example.toml ./
COPY gateway gateway
COPY sql sql
RUN python -m build --wheel && /opt/gateway/bin/pip install --no-cache-dir --no-deps dist/*.whl

FROM python:3.12-slim-bookworm
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAY_SERVER__HOST=0.0.0.0
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('GATEWAY_SERVER__PORT', '8080') + '/healthz', timeout=2)"]
# SIGTERM drains: readiness turns 503, calls under way end, then the process does.
STOPSIGNAL SIGTERM
ENTRYPOINT ["gateway"]
CMD ["serve"]
