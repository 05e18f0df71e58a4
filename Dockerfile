# docker build -t locus .
# docker run --rm -v "$PWD/runs:/work/runs" locus train --config /usr/local/share/locus/configs/top_k.toml
FROM debian:12

RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends make && rm -rf /var/lib/apt/lists/*
COPY . /opt/locus
WORKDIR /opt/locus
# A wheel of PyTorch for CPUs makes the image smaller: --build-arg LOCUS_TORCH=ADDRESS_OF_WHEEL
ARG LOCUS_TORCH=
# One layer, so that object files and pip's cache are in no image. libtorch stays in /opt/locus/.venv.
RUN LOCUS_TORCH="$LOCUS_TORCH" make CMAKE_ARGS=-DLOCUS_TESTS=OFF install PREFIX=/usr/local \
  && rm -rf build /root/.cache /var/lib/apt/lists/*
WORKDIR /work
ENTRYPOINT ["locus"]
