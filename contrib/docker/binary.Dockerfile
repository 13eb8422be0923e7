# The image of Dockerfile from a program that is built already. It pulls nothing. contrib/docker/root creates the build
# context.
FROM scratch
COPY root /
COPY --chown=65532:65532 store /var/lib/events
# A user without a name and without privileges. Add the group of the engine's socket with --group-add.
USER 65532:65532
VOLUME /var/lib/events
ENV EVENTS_DB=/var/lib/events/events.db
EXPOSE 9324
# No HEALTHCHECK, because each check would add three events. Use /healthz.
ENTRYPOINT ["/usr/local/bin/events"]
CMD ["record", "-H", "unix:///host/run/docker.sock", "--metrics", "tcp://0.0.0.0:9324", "--allow-remote"]
