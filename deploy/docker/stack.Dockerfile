# SPDX-License-Identifier: Apache-2.0
# One image for every service and for xenops-cli: the command says which. Its context is the folder that build.sh
# fills, with a wheelhouse of locked versions: nothing is taken from a package index in here.
ARG BASE_IMAGE=xenopsd/debian-base
FROM $BASE_IMAGE AS built
RUN apt-get update -qq && apt-get install -qq --no-install-recommends -y python3-venv >/dev/null
COPY wheelhouse /wheelhouse
RUN python3 -m venv /opt/xenopsd \
    && /opt/xenopsd/bin/pip install -q --no-index --find-links /wheelhouse 'xenopsd[cli]' \
    && /opt/xenopsd/bin/pip uninstall -q -y pip setuptools

FROM $BASE_IMAGE
RUN apt-get update -qq && apt-get install -qq --no-install-recommends -y python3 >/dev/null \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --home-dir /var/lib/xenopsd xenopsd \
    && install -d -o xenopsd -g xenopsd -m 700 /var/lib/xenopsd
COPY --from=built /opt/xenopsd /opt/xenopsd
ENV PATH=/opt/xenopsd/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
USER xenopsd
WORKDIR /var/lib/xenopsd
CMD ["xenopsd"]
