"""deploy/kubernetes: what kustomize makes of it fits the Kubernetes schemas, and keeps to the code and the image."""

import functools
import subprocess

import kubernetes_validate
import pytest
import yaml
from support.gateways import ROOT
from support.servers import needs
from support.shipped import IMAGE, SETTINGS, exported, gunicorn_settings, last

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
PARTS = {
    *("Namespace", "ServiceAccount", "ConfigMap", "Deployment", "Service", "Ingress", "PodDisruptionBudget"),
    *("HorizontalPodAutoscaler", "NetworkPolicy"),
}


@functools.cache
def built():
    """Kind → what `kubectl apply -k` would send."""
    text = subprocess.run([needs("kubectl"), "kustomize", FOLDER], check=True, capture_output=True, text=True).stdout
    return {part["kind"]: part for part in yaml.safe_load_all(text)}


def pod():
    return built()["Deployment"]["spec"]["template"]["spec"]


def gateway():
    [container] = pod()["containers"]
    return container


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", sorted(PARTS))
def test_each_part_fits_the_schema(kind, version):
    kubernetes_validate.validate(built()[kind], version, strict=True)


def test_it_has_the_whole_lists_every_file_and_no_secret():
    assert "Secret" not in built()
    assert [source["secretRef"]["name"] for source in gateway()["envFrom"] if "secretRef" in source] == ["chatapi"]
    assert "hf_…" in (FOLDER / "kustomization.yaml").read_text(), "how to make it"
    named = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*named, "kustomization.yaml"}
    written = [part for name in named for part in yaml.safe_load_all((FOLDER / name).read_text())]
    assert PARTS - {"ConfigMap"} == {part["kind"] for part in written}


def test_all_is_in_one_namespace_which_lets_no_root_in():
    namespaces = {part["metadata"].get("namespace") for kind, part in built().items() if kind != "Namespace"}
    assert namespaces == {"chatapi"}
    assert built()["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_settings_are_ones_that_the_gateway_reads():
    settings = built()["ConfigMap"]["data"]
    assert set(settings) <= SETTINGS
    assert settings["CHATAPI_AUTH"] == "required"


def test_the_pods_run_as_the_image_s_user_and_may_nothing():
    user, group = map(int, last("USER").split(":"))
    context = pod()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (user, group, True)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    for container in (*pod()["containers"], *pod()["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", last("VOLUME")}


def test_a_pod_has_the_time_that_its_calls_have():
    command = gateway()["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    least_s = int(command[1]) + gunicorn_settings()["graceful_timeout"]
    assert least_s + 10 <= pod()["terminationGracePeriodSeconds"] <= least_s + 60


def test_the_probes_ask_what_the_gateway_answers(client):
    [port] = gateway()["ports"]
    assert {("EXPOSE", str(port["containerPort"]))} <= set(IMAGE)
    for name, path in {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}.items():
        assert gateway()[name]["httpGet"] == {"path": path, "port": port["name"]}
        assert client.get(path).status_code == 200


def test_everything_means_the_same_pods():
    labels = built()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    chosen = [
        built()["Deployment"]["spec"]["selector"]["matchLabels"],
        built()["Service"]["spec"]["selector"],
        built()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        built()["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in chosen)
    assert built()["Service"]["spec"]["ports"][0]["targetPort"] == gateway()["ports"][0]["name"]
    [rule] = built()["Ingress"]["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == built()["Service"]["metadata"]["name"]


def test_it_grows_with_its_open_streams(client):
    scaler = built()["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == built()["Deployment"]["metadata"]["name"]
    assert scaler["minReplicas"] >= 2 > built()["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    assert "replicas" not in built()["Deployment"]["spec"], "an apply would undo what the autoscaler has done"
    [streams] = [metric["pods"] for metric in scaler["metrics"] if metric["type"] == "Pods"]
    assert streams["metric"]["name"] in exported(client)
    assert int(streams["target"]["averageValue"]) < gunicorn_settings()["worker_connections"]


def test_the_network_lets_in_and_out_what_is_needed_alone():
    policy = built()["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [gateway()["ports"][0]["name"]]
    assert all(rule.get("from") for rule in policy["ingress"])
    out = {port["port"]: rule["to"] for rule in policy["egress"] for port in rule["ports"]}
    assert set(out) == {53, 443, 5432, 6379}
    [beyond] = out[443]
    assert "169.254.0.0/16" in beyond["ipBlock"]["except"], "the cloud's metadata"


def test_the_ingress_collects_nothing_and_waits_for_the_longest_call():
    notes = {name.rpartition("/")[2]: text for name, text in built()["Ingress"]["metadata"]["annotations"].items()}
    assert notes["proxy-buffering"] == "off"
    assert int(notes["proxy-read-timeout"]) > 120
    assert "non_idempotent" not in notes["proxy-next-upstream"]
