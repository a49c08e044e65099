"""How much of the output's error each quantized layer causes, measured on the CPU with nothing but two typed graphs.

Three figures a layer, each a ratio of signal to noise in dB:

own      its own output in INT8 against float, on float inputs: how badly it is quantized
alone    the network's output with only this layer in INT8: how much that matters
without  the network's output with every other layer in INT8: what taking it back to float would gain

Errors of layers add up almost like independent noise (EfficientNet-B0: 82 layers alone predict 7.0 dB for all of them
together, measured 6.3; the rest after the 24 worst are taken back 26.2, measured 26.3), so `alone` ranks them. Several
outputs count alike: their ratios of noise to signal are averaged.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import onnx

from deploy_compile import onnx_graph
from deploy_compile.probes import Probes
from deploy_compile.results_int8 import LayerError, Sensitivity
from deploy_compile.switches import Answers, Sample, Switched, quantized_forms, switched


def sensitivity(fp32: Path, int8: Path, samples: Sequence[Sample], threads: int) -> Sensitivity:
    """Measure every quantized layer of a graph on samples of one each, the most harmful layer first.

    Raises ValueError where the two graphs are not forms of one network.
    """
    floats = onnx_graph.load(fp32)
    own = own_errors(floats, onnx_graph.load(int8), samples, threads)
    with switched(fp32, int8, threads) as both:
        reference = answers(both, samples, ())
        whole = noise(reference, answers(both, samples, both.nodes))
        single = alone(both, samples, reference)
        rest = {
            node: noise(reference, answers(both, samples, [other for other in both.nodes if other != node]))
            for node in both.nodes
        }
    operators = {node.name: node.op_type for node in floats.graph.node}
    layers = [
        LayerError(node, operators[node], decibels(own[node]), decibels(single[node]), decibels(rest[node]))
        for node in sorted(single, key=lambda name: -single[name])
    ]
    return Sensitivity(tuple(layers), decibels(whole), len(samples))


def answers(both: Switched, samples: Sequence[Sample], int8: Collection[str]) -> dict[str, np.ndarray]:
    """Return the outputs for all samples, stacked on axis 0, with the nodes of `int8` in INT8."""
    runs = [both.run(sample, int8) for sample in samples]
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def noise(reference: Answers, got: Answers) -> float:
    """Return noise over signal, as powers, averaged over the outputs; of an output of zeros its noise counts."""
    ratios = [
        float(np.square(got[name] - wanted, dtype=np.float64).sum())
        / (float(np.square(wanted, dtype=np.float64).sum()) or 1.0)
        for name, wanted in reference.items()
    ]
    return sum(ratios) / len(ratios)


def decibels(ratio: float) -> float:
    """Return noise over signal as a signal-to-noise ratio in dB; infinite where there is no noise."""
    return math.inf if ratio == 0.0 else -10.0 * math.log10(ratio)


def alone(
    both: Switched, samples: Sequence[Sample], reference: Answers, budget_s: float = math.inf, most_s: float = math.inf
) -> dict[str, float]:
    """Return the noise that each layer causes when only it is in INT8, on as many samples as `budget_s` allows.

    One sample goes through every layer; where even that would take more than `most_s` seconds, neighbours are switched
    together and the worst of such groups split for as long as there is time: noises of layers add up, and those of a
    group that stayed whole share its noise.
    """
    begun, found = time.monotonic(), dict.fromkeys(both.nodes, 0.0)
    for count, sample in enumerate(samples, start=1):
        wanted = {name: array[count - 1 : count] for name, array in reference.items()}

        def measured(nodes: Sequence[str], sample: Sample = sample, wanted: Answers = wanted) -> float:
            return noise(wanted, both.run(sample, nodes))

        if count == 1:
            measured(both.nodes[:1])
            spent = time.monotonic() - begun
            if spent * len(both.nodes) > most_s:
                return _shared(measured, both.nodes, spent, begun + most_s)
        for node in both.nodes:
            found[node] += measured((node,))
        spent = time.monotonic() - begun
        if count == len(samples) or spent + spent / count > budget_s:
            return {node: total / count for node, total in found.items()}
    return found


def _shared(
    measured: Callable[[Sequence[str]], float], nodes: Sequence[str], run_s: float, until: float
) -> dict[str, float]:
    """Return each layer's share of the noise of its group; half of the time is for splitting the worst of them."""
    runs = max(1, int((until - time.monotonic()) / run_s / 2))
    size = math.ceil(len(nodes) / runs)
    groups = [(measured(group), group) for group in (nodes[at : at + size] for at in range(0, len(nodes), size))]
    while any(len(group) > 1 for _, group in groups) and time.monotonic() + 2 * run_s <= until:
        worst = max((pair for pair in groups if len(pair[1]) > 1), key=itemgetter(0))
        groups.remove(worst)
        half = len(worst[1]) // 2
        groups += [(measured(part), part) for part in (worst[1][:half], worst[1][half:])]
    return {node: together / len(group) for together, group in groups for node in group}


def own_errors(
    fp32: onnx.ModelProto, int8: onnx.ModelProto, samples: Sequence[Sample], threads: int
) -> dict[str, float]:
    """Return noise over signal at each quantized layer's own output, on float inputs, in one pass a sample."""
    forms = quantized_forms(fp32, int8)
    probes = Probes(fp32, onnx_graph.taken(int8))
    onnx_graph.add_constants(probes.model.graph, int8, forms.values())
    outputs = {node.name: node.output[0] for node in fp32.graph.node}
    sums = {
        name: (
            probes.sum_of_squares(probes.node("Sub", [probes.copies(form), outputs[name]])),
            probes.sum_of_squares(outputs[name]),
        )
        for name, form in forms.items()
    }
    found = probes.run(samples, threads)
    return {name: found[error] / (found[energy] or 1.0) for name, (error, energy) in sums.items()}
