"""Network namespaces: one for the node, from which probes run, and one per pod."""

import subprocess

NODE = "assay-drill-node"
NETWORK = "10.231.0"
PODS = 4


def lay_network():
    """A bridge on the node, and a pair of interfaces for each pod."""
    ip(f"netns add {NODE}")
    ip(f"-n {NODE} link set lo up")
    ip(f"-n {NODE} link add bridge type bridge")
    ip(f"-n {NODE} address add {NETWORK}.1/24 dev bridge")
    ip(f"-n {NODE} link set bridge up")
    for index in range(PODS):
        pod = namespace_of(index)
        ip(f"netns add {pod}")
        ip(f"-n {pod} link set lo up")
        ip(f"-n {NODE} link add pod{index} type veth peer name eth0 netns {pod}")
        ip(f"-n {NODE} link set pod{index} master bridge up")
        ip(f"-n {pod} address add {address_of(index)}/24 dev eth0")
        ip(f"-n {pod} link set eth0 up")


def take_network_away():
    for namespace in (NODE, *map(namespace_of, range(PODS))):
        subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL)


def namespace_of(index):
    return f"assay-drill-pod-{index}"


def address_of(index):
    return f"{NETWORK}.{10 + index}"


def ip(command):
    subprocess.run(["ip", *command.split()], check=True)
