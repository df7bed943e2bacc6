"""A stand-in for a Kubernetes cluster: as much of its API as `kubectl` and Prefect's worker call. It is not a cluster.

A container is a process on a Host of its pod's. It has an address, an empty folder for each volume, the variables of
its image and of the pod's spec, and the rights that Roles give its ServiceAccount. Its user is root, and nothing limits
its memory or cores. A Service has no address of its own: `endpoints` says where its ready pods are.
"""

import base64
import copy
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import psutil
import yaml

from lifecycle.processes import answers

from hosts import Host, Network

Object = dict[str, Any]
KINDS = {
    "v1": {
        "namespaces": "Namespace",
        "pods": "Pod",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "apps/v1": {"deployments": "Deployment"},
    "batch/v1": {"jobs": "Job"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {"rolebindings": "RoleBinding", "roles": "Role"},
}
PATH = re.compile(
    r"/(?:api|apis)/(?P<version>v1|[\w.]+/v1)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>log))?"
)
# A folder that every machine has, and none needs.
MOUNT = "/mnt"
CONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: it, cluster: {{server: "{url}", certificate-authority: "{certificate}"}}}}]
users: [{{name: it, user: {{token: "{token}"}}}}]
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
current-context: it
"""
ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Image:
    """A container image, in effect: its variables, its working folder, and its own files, which are at MOUNT."""

    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    files: Path | None = None


class RefusalError(Exception):
    """An answer that is an error, as the API gives it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "reason": reason, "message": message, "code": code,
        }  # fmt: skip


@dataclass
class Cluster:
    """The objects, and what happens to them. `calls`: what the ServiceAccounts asked for, and whether they may."""

    network: Network
    folder: Path
    images: dict[str, Image]
    hidden: list[Path]
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    history: list[tuple[str, str, Object]] = field(default_factory=list)
    calls: set[tuple[str, str, bool]] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)
    pods: dict[str, "Pod"] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    port: int = 0
    ended: bool = False

    def put(self, plural: str, made: Object, event: str = "") -> Object:
        """Store an object, and tell those who watch."""
        with self.changed:
            metadata = made["metadata"]
            key = (plural, metadata["namespace"], metadata["name"])
            event = event or ("MODIFIED" if key in self.objects else "ADDED")
            metadata.setdefault("uid", str(uuid4()))
            metadata.setdefault("creationTimestamp", now())
            metadata["resourceVersion"] = str(len(self.history) + 1)
            self.objects[key] = made
            if event == "DELETED":
                del self.objects[key]
            self.history.append((plural, event, copy.deepcopy(made)))
            self.changed.notify_all()
        return made

    def find(self, plural: str, namespace: str = "", labels: str = "", fields: str = "") -> list[Object]:
        with self.changed:
            found = [copy.deepcopy(each) for (kind, *_), each in self.objects.items() if kind == plural]
        return [each for each in found if chosen(each, namespace, labels, fields)]

    def get(self, plural: str, namespace: str, name: str) -> Object:
        with self.changed:
            if found := self.objects.get((plural, namespace, name)):
                return copy.deepcopy(found)
        raise RefusalError(404, "NotFound", f'{plural} "{name}" not found')

    def create(self, plural: str, namespace: str, body: Object) -> Object:
        metadata = body["metadata"]
        metadata["namespace"] = namespace
        metadata.setdefault("name", metadata.get("generateName", "") + uuid4().hex[:5])
        if (plural, namespace, metadata["name"]) in self.objects:
            raise RefusalError(409, "AlreadyExists", f'{plural} "{metadata["name"]}" already exists')
        metadata["generation"], metadata["uid"] = 1, str(uuid4())
        if plural == "jobs":
            body["status"] = {"active": 1}
            body["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": metadata["uid"]}}
        made = copy.deepcopy(self.put(plural, body))
        if plural == "jobs":
            labels = {"job-name": metadata["name"], "batch.kubernetes.io/job-name": metadata["name"]}
            self.start(made, body["spec"]["template"], labels | body["spec"]["selector"]["matchLabels"])
        return made

    def apply(self, plural: str, namespace: str, name: str, body: Object) -> Object:
        """Server-side apply of one manager's fields, which are all there are."""
        try:
            kept = self.get(plural, namespace, name)
        except RefusalError:
            return self.create(plural, namespace, body)
        body["metadata"] = kept["metadata"] | body["metadata"]
        body["metadata"]["generation"] += body.get("spec") != kept.get("spec")
        return copy.deepcopy(self.put(plural, body | ({"status": kept["status"]} if "status" in kept else {})))

    def delete(self, plural: str, namespace: str, name: str) -> Object:
        found = self.get(plural, namespace, name)
        if plural == "pods":
            found["metadata"]["deletionTimestamp"] = now()
            self.put(plural, found)
            self.pods[name].stop()
            return found
        for pod in self.find("pods", namespace):
            if owner_of(pod) == found["metadata"]["uid"]:
                self.delete("pods", namespace, pod["metadata"]["name"])
        return self.put(plural, found, "DELETED")

    def start(self, owner: Object, template: Object, labels: dict[str, str]) -> None:
        """Start a pod for a Job or a Deployment."""
        metadata = copy.deepcopy(template.get("metadata", {}))
        metadata["name"] = f"{owner['metadata']['name']}-{uuid4().hex[:5]}"
        metadata["namespace"] = owner["metadata"]["namespace"]
        metadata["labels"] = metadata.get("labels", {}) | labels
        metadata["ownerReferences"] = [
            {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
             "uid": owner["metadata"]["uid"], "controller": True}
        ]  # fmt: skip
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}
        pod["status"] = {"phase": "Pending"}
        with self.changed:
            self.put("pods", pod)
            self.pods[metadata["name"]] = made = Pod(self, metadata["namespace"], metadata["name"])
        made.thread.start()

    def pod_ended(self, pod: Object) -> None:
        """A Job follows its pod. (backoffLimit is 0 here.)"""
        for job in self.find("jobs", pod["metadata"]["namespace"]):
            if job["metadata"]["uid"] == owner_of(pod):
                good = pod["status"]["phase"] == "Succeeded"
                condition = {"type": "Complete" if good else "Failed", "status": "True", "lastTransitionTime": now()}
                self.put("jobs", job | {"status": {"succeeded" if good else "failed": 1, "conditions": [condition]}})

    def control(self) -> None:
        """The controller of Deployments: `maxSurge: 1, maxUnavailable: 0`."""
        while not self.ended:
            for deployment in self.find("deployments"):
                self._roll(deployment)
            time.sleep(0.1)

    def _roll(self, deployment: Object) -> None:
        wanted, namespace = deployment["spec"]["replicas"], deployment["metadata"]["namespace"]
        template = deployment["spec"]["template"]
        label = {"pod-template-hash": hashlib.sha256(json.dumps(template).encode()).hexdigest()[:10]}
        mine = [
            pod for pod in self.find("pods", namespace)
            if owner_of(pod) == deployment["metadata"]["uid"] and "deletionTimestamp" not in pod["metadata"]
        ]  # fmt: skip
        new = [pod for pod in mine if label.items() <= pod["metadata"]["labels"].items()]
        old = [pod for pod in mine if pod not in new]
        ready = sum(map(is_ready, mine))
        status = {
            "replicas": len(mine), "updatedReplicas": len(new), "readyReplicas": ready, "availableReplicas": ready,
            "observedGeneration": deployment["metadata"]["generation"],
        }  # fmt: skip
        if status != deployment.get("status"):
            with self.changed:
                latest = self.objects["deployments", namespace, deployment["metadata"]["name"]]
                self.put("deployments", copy.deepcopy(latest) | {"status": status})
        if len(new) < wanted and len(mine) <= wanted:
            self.start(deployment, template, label)
        surplus = sorted(old, key=is_ready) or new[wanted:]
        if surplus and (ready > wanted or not is_ready(surplus[0])):
            self.delete("pods", namespace, surplus[0]["metadata"]["name"])

    def endpoints(self, namespace: str, name: str) -> list[str]:
        """Where a Service's ready pods are."""
        service = self.get("services", namespace, name)["spec"]
        labels = ",".join(f"{key}={value}" for key, value in service["selector"].items())
        return [
            f"{pod['status']['podIP']}:{number_of(service['ports'][0]['targetPort'], pod['spec']['containers'][0])}"
            for pod in self.find("pods", namespace, labels)
            if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
        ]

    def variables(self, pod: Object, container: Object) -> dict[str, str]:
        """The variables of a container. Those of a Secret are there only if it is."""
        namespace, found = pod["metadata"]["namespace"], dict[str, str]()
        for source in container.get("envFrom", []):
            found |= self._secret(namespace, source["secretRef"]["name"])
        for each in container.get("env", []):
            source = each.get("valueFrom", {})
            if secret := source.get("secretKeyRef"):
                found[each["name"]] = self._secret(namespace, secret["name"])[secret["key"]]
            elif source:
                assert source == {"fieldRef": {"fieldPath": "metadata.namespace"}}
                found[each["name"]] = namespace
            else:
                found[each["name"]] = each.get("value", "")
        return found

    def _secret(self, namespace: str, name: str) -> dict[str, str]:
        data = self.get("secrets", namespace, name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def may(self, token: str, verb: str, group: str, resource: str, namespace: str) -> bool:
        """Whether the owner of a token may do this, by the Roles that are bound to it. `kubectl` may do everything."""
        who = self.tokens[token]
        if who is None:
            return True
        allowed = any(
            group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
            for binding in self.find("rolebindings", namespace)
            if namespace and any((each["namespace"], each["name"]) == who for each in binding["subjects"])
            for rule in self.get("roles", namespace, binding["roleRef"]["name"])["rules"]
        )
        self.calls.add((verb, resource, allowed))
        return allowed


class Pod:
    """A pod's processes, from its start to its end."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name
        self.folder = cluster.folder / name
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._live, daemon=True)

    def stop(self) -> None:
        self.stopping.set()

    def processes(self) -> list[psutil.Process]:
        """Its own process, and all that this one has started."""
        with suppress(psutil.NoSuchProcess):
            if self.process is not None:
                own = psutil.Process(self.process.pid)
                return [own, *own.children(recursive=True)]
        return []

    def runs(self, words: str) -> bool:
        """Whether a process with these words in its command runs."""
        for each in self.processes():
            with suppress(psutil.Error):
                if words in shlex.join(each.cmdline()):
                    return True
        return False

    def kill(self) -> None:
        """What happens when its node loses power, or its memory ends."""
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                each.kill()
        # What the first one has left behind, if it ended before.
        with suppress(ProcessLookupError):
            if self.process is not None:
                os.killpg(self.process.pid, signal.SIGKILL)

    def _live(self) -> None:
        pod = self.cluster.get("pods", self.namespace, self.name)
        self.folder.mkdir(parents=True)
        with self.cluster.changed:  # one at a time
            host = self.cluster.network.host(self.folder)
        (container,) = pod["spec"]["containers"]
        good = False
        try:
            self._say(pod, podIP=host.address, startTime=now())
            good = all(self._run(host, pod, each) == 0 for each in pod["spec"].get("initContainers", []))
            good = good and self._run(host, pod, container) == 0
        except RefusalError as refusal:  # a Secret is not there
            self.log.write_text(str(refusal))
        finally:
            self._end(good)

    def _end(self, good: bool) -> None:
        with self.cluster.changed:
            pod = self.cluster.get("pods", self.namespace, self.name)
            code = {"exitCode": 0 if good else 1, "finishedAt": now()}
            self._say(pod, phase="Succeeded" if good else "Failed", state={"terminated": code})
            self.cluster.pod_ended(pod)
            if self.stopping.is_set():
                self.cluster.put("pods", pod, "DELETED")
        shutil.rmtree(self.folder / "volumes", ignore_errors=True)

    def _say(self, pod: Object, state: Object | None = None, ready: bool = False, **status: str) -> None:
        with suppress(RefusalError):
            pod["metadata"] |= self.cluster.get("pods", self.namespace, self.name)["metadata"]
        pod["status"] |= status
        if state:
            name = pod["spec"]["containers"][0]["name"]
            one = {"name": name, "state": state, "ready": ready, "restartCount": 0, "image": "", "imageID": ""}
            pod["status"] |= {"containerStatuses": [one], "conditions": [{"type": "Ready", "status": str(ready)}]}
        self.cluster.put("pods", copy.deepcopy(pod))

    def _run(self, host: Host, pod: Object, container: Object) -> int:
        """Run a container to its end. Return its exit code."""
        image = self.cluster.images[container["image"]]
        own = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath])}
        own |= image.environment | self.cluster.variables(pod, container)
        volumes = {mount["mountPath"]: self.folder / "volumes" / mount["name"] for mount in container["volumeMounts"]}
        for volume in volumes.values():
            volume.mkdir(parents=True, exist_ok=True)
        if image.files:
            volumes[MOUNT] = image.files
        mounts = [f"mount --bind {shlex.quote(str(volume))} {path}" for path, volume in volumes.items()]
        if pod["spec"].get("automountServiceAccountToken", True):
            own["KUBERNETES_SERVICE_HOST"] = self.cluster.network.address
            own["KUBERNETES_SERVICE_PORT"] = str(self.cluster.port)
            mounts.append(self._account(pod))
        mounts += [f"mount -t tmpfs none {shlex.quote(str(each))}" for each in self.cluster.hidden]
        if container["securityContext"].get("readOnlyRootFilesystem"):
            mounts.append("mount -o remount,bind,ro /")
        folder = container.get("workingDir", image.workdir)
        script = " && ".join([*mounts, f"cd {shlex.quote(folder)}", 'exec "$@"'])
        words = [expanded(word, own) for word in [*container.get("command", []), *container.get("args", [])]]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                host.command("sh", "-c", script, "sh", *words),
                cwd="/", env=own, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            return self._watch(host, pod, container, self.process)
        finally:
            self.kill()

    def _watch(self, host: Host, pod: Object, container: Object, process: subprocess.Popen[bytes]) -> int:
        main = container in pod["spec"]["containers"]
        state = {"running": {"startedAt": now()}}
        probe = container.get("readinessProbe", {}).get("httpGet")
        url = probe and f"http://{host.address}:{number_of(probe['port'], container)}{probe['path']}"
        ready: bool | None = None
        while process.poll() is None and not self.stopping.is_set():
            before, ready = ready, url is None or answers(url)
            if main and ready != before:
                self._say(pod, state, ready, phase="Running")
            time.sleep(0.05)
        if process.poll() is None:
            if hook := container.get("lifecycle", {}).get("preStop"):
                subprocess.run(host.command(*hook["exec"]["command"]), check=False)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(pod["spec"].get("terminationGracePeriodSeconds", 30))
            self.kill()
        return process.wait()

    def _account(self, pod: Object) -> str:
        """What puts the token of the pod's ServiceAccount where clients look for it."""
        token, folder = uuid4().hex, self.folder / "account"
        folder.mkdir(exist_ok=True)
        self.cluster.tokens[token] = (self.namespace, pod["spec"].get("serviceAccountName", "default"))
        (folder / "token").write_text(token)
        (folder / "namespace").write_text(self.namespace)
        shutil.copy(self.cluster.folder / "ca.crt", folder)
        return f"mount -t tmpfs none /run && mkdir -p {ACCOUNT} && cp {shlex.quote(str(folder))}/* {ACCOUNT}"


class Handler(BaseHTTPRequestHandler):
    """The API over HTTP."""

    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: value[-1] for key, value in parse_qs(parts.query).items()}
        self.selectors = [self.query.get(key, "") for key in ("labelSelector", "fieldSelector")]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token not in self.cluster.tokens:
                raise RefusalError(401, "Unauthorized", "Unauthorized")
            if (found := discovery(parts.path)) is not None:
                self._answer(200, found)
            elif match := PATH.fullmatch(parts.path):
                # JSON is YAML too.
                self._resource(token, yaml.safe_load(body) if body else {}, **match.groupdict(default=""))
            else:
                raise RefusalError(404, "NotFound", f"the stand-in has no {parts.path}")
        except RefusalError as refusal:
            self._answer(refusal.code, refusal.status)
        except (BrokenPipeError, ConnectionError, ssl.SSLError):
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815  the names that http.server asks for

    def _resource(
        self, token: str, body: Object, version: str, namespace: str, plural: str, name: str, part: str
    ) -> None:
        cluster, kind = self.cluster, KINDS.get(version, {}).get(plural)
        if kind is None:
            raise RefusalError(404, "NotFound", f"the stand-in has no {plural} of {version}")
        watches = self.query.get("watch") in ("1", "true", "True")
        reads = "get" if name else "watch" if watches else "list"
        verb = {"GET": reads, "POST": "create"}.get(self.command, self.command.lower())
        resource = f"{plural}/{part}" if part else plural
        if not cluster.may(token, verb, version.rpartition("/")[0], resource, namespace):
            raise RefusalError(403, "Forbidden", f"{resource} is forbidden: the Role has no {verb}")
        if part:
            self._follow(cluster.pods[name])
        elif watches:
            self._watch(plural, namespace)
        elif verb == "list":
            found = cluster.find(plural, namespace, *self.selectors)
            position = {"resourceVersion": str(len(cluster.history))}
            self._answer(200, {"apiVersion": version, "kind": f"{kind}List", "metadata": position, "items": found})
        elif verb == "create":
            self._answer(201, cluster.create(plural, namespace, body))
        elif verb == "get":
            self._answer(200, cluster.get(plural, namespace, name))
        elif verb == "patch" and "apply-patch" in self.headers.get("Content-Type", ""):
            self._answer(200, cluster.apply(plural, namespace, name, body))
        elif verb == "delete":
            self._answer(200, cluster.delete(plural, namespace, name))
        else:
            kind = self.headers.get("Content-Type")
            raise RefusalError(405, "MethodNotAllowed", f"the stand-in has no {self.command} of {kind}")

    def _answer(self, code: int, body: Object) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, kind: str) -> None:
        """An answer that ends with its connection."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.flush()

    def _watch(self, plural: str, namespace: str) -> None:
        cluster, since = self.cluster, self.query.get("resourceVersion", "")
        until = time.monotonic() + float(self.query.get("timeoutSeconds", 3600))
        self._stream("application/json")
        with cluster.changed:
            seen = int(since) if since else len(cluster.history)
            there = [] if since else [("ADDED", each) for each in cluster.find(plural, namespace, *self.selectors)]
        while not cluster.ended and time.monotonic() < until:
            for event, each in there:
                self.wfile.write(json.dumps({"type": event, "object": each}).encode() + b"\n")
            self.wfile.flush()
            with cluster.changed:
                if len(cluster.history) == seen:
                    cluster.changed.wait(1)
                news, seen = cluster.history[seen:], len(cluster.history)
            there = [
                (event, each)
                for kind, event, each in news
                if kind == plural and chosen(each, namespace, *self.selectors)
            ]

    def _follow(self, pod: Pod) -> None:
        self._stream("text/plain")
        with pod.log.open("rb") as log:
            while True:
                ended = not pod.thread.is_alive()
                self.wfile.write(log.read())
                self.wfile.flush()
                if ended or self.query.get("follow") not in ("true", "True"):
                    break
                time.sleep(0.1)


def discovery(path: str) -> Object | None:
    """The API's description of itself."""
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0-stand-in", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [(version, {"groupVersion": version, "version": "v1"}) for version in KINDS if "/" in version]
        names = [{"name": name.split("/")[0], "versions": [it], "preferredVersion": it} for name, it in groups]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": names}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in KINDS:
        return None
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": kind != "Namespace", "verbs": verbs}
        for plural, kind in KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def owner_of(made: Object) -> str | None:
    return next((each["uid"] for each in made["metadata"].get("ownerReferences", [])), None)


def is_ready(pod: Object) -> bool:
    return any(each["ready"] for each in pod["status"].get("containerStatuses", []))


def number_of(port: int | str, container: Object) -> int:
    named = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
    return named[port] if isinstance(port, str) else port


def expanded(word: str, variables: dict[str, str]) -> str:
    """A word of a command: Kubernetes puts the value in the place of $(NAME)."""
    return re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), word)


def chosen(made: Object, namespace: str, labels: str = "", fields: str = "") -> bool:
    """Whether selectors choose an object."""
    metadata = made["metadata"]

    def hold(tests: str, values: dict[str, str]) -> bool:
        pairs = [each.partition("=") for each in filter(None, tests.split(","))]
        return all(values.get(key) == value if equals else key in values for key, equals, value in pairs)

    named = {"metadata.name": metadata["name"]}
    return namespace in ("", metadata["namespace"]) and hold(labels, metadata.get("labels", {})) and hold(fields, named)


@contextmanager
def cluster(network: Network, folder: Path, images: dict[str, Image], hidden: list[Path]) -> Iterator[Cluster]:
    """A stand-in, for as long as a test needs it. `folder`/config is for `kubectl`."""
    folder.mkdir()
    made = Cluster(network, folder, images, hidden, tokens={(token := uuid4().hex): None})
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=stand-in", "-addext", f"subjectAltName=IP:{network.address}",
         "-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ThreadingHTTPServer((network.address, 0), type("Handler", (Handler,), {"cluster": made}))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "ca.key")
    # Else a client that is slow to begin would keep all others out.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made.port = server.server_address[1]
    (folder / "config").write_text(
        CONFIG.format(url=f"https://{network.address}:{made.port}", certificate=folder / "ca.crt", token=token)
    )
    threads = [threading.Thread(target=each, daemon=True) for each in (server.serve_forever, made.control)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.ended = True
        for pod in made.pods.values():
            pod.kill()
            pod.stop()
        for pod in made.pods.values():
            pod.thread.join()
        server.shutdown()
        server.server_close()
