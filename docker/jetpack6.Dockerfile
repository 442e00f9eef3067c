# A board with JetPack 6.1 or 6.2: bench, predict, verify and engines. The context is a bundle: make bundle TARGET=jetpack6
#   docker build --tag dhox:jetpack6 --file docker/jetpack6.Dockerfile dist/dhox-VERSION-jetpack6-cp310
# CUDA, TensorRT and its Python module are those of the base; the build stops where the module is missing.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
RUN python3 -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('tensorrt') is None and 'no tensorrt')"
RUN --mount=type=bind,target=/bundle sh /bundle/install.sh /opt/dhox
RUN useradd --create-home --uid 10001 --groups video dhox
ENV PATH=/opt/dhox/bin:$PATH
USER 10001
WORKDIR /work
ENTRYPOINT ["dhox"]
CMD ["doctor"]
