"""Tests for the training records of stream kinds: completeness, and any pitch grid."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from manifests.cache.encoded_frames import encode
from manifests.streams.kinds import KINDS
from manifests.streams.pitch_bins import PitchBins
from manifests.streams.specs import StreamSpec
from student.config import StreamConfig
from student.distill.alignment import student_frames
from student.distill.kinds import TRAINING_KINDS, stream_metric, to_target_units
from student.distill.streams import Stream
from student.evaluation.analysis import pictures
from student.inference import head_tracks
from student.inference.head_outputs import HeadOutput
from student.report import predictions
from student.runs.sources import Sources, StreamSource

BINS = PitchBins(lowest_hz=50.0, cents_per_bin=10.0)
NUM_BINS = 720


def salience(hertz_T: np.ndarray) -> np.ndarray:
    """Returns voiced frames of a pitch teacher on the grid `BINS`."""
    cents_T = 1200 * np.log2(hertz_T / BINS.lowest_hz)
    cents_TB = BINS.cents(NUM_BINS) - cents_T[:, None]
    voicing_T1 = np.ones((len(hertz_T), 1))
    return np.hstack([np.exp(-((cents_TB / 25) ** 2) / 2), voicing_T1]).astype(np.float32)


def test_every_trainable_kind_has_a_record() -> None:
    assert set(TRAINING_KINDS) == {name for name, kind in KINDS.items() if kind.is_trainable}


@pytest.mark.parametrize("codec", ["pitch", "fp16"])
def test_pitch_metric_and_hertz_follow_the_grid_of_the_spec(codec: str) -> None:
    """The grid has 10 cents per bin from 50 Hz, which is not CREPE's."""
    spec = StreamSpec(
        name="salience", kind="pitch", dim=NUM_BINS + 1, start_s=0.0, hop_s=0.1, window_s=0.1,
        codec=codec, pitch_bins=BINS,
    )  # fmt: skip
    hertz_T = np.array([110.0, 220.0, 440.0, 880.0])
    target_ND = student_frames(encode(salience(hertz_T), spec), 0.35, 4)
    stream = Stream(
        name="p.salience", kind="pitch", dim=spec.dim, config=StreamConfig(), pitch_bins=BINS
    )
    for cents_off, score in ((45.0, 1.0), (55.0, 0.0)):
        predicted_ND = salience(hertz_T * 2 ** (cents_off / 1200))
        logits_ND = np.log(predicted_ND.clip(1e-6))
        logits_ND[:, -1] = 10.0
        assert stream_metric(stream, logits_ND, target_ND) == score
        output = HeadOutput(
            stream=stream.name, kind="pitch", names=(), unit="",
            values_ND=to_target_units("pitch", logits_ND), pitch_bins=BINS,
        )  # fmt: skip
        np.testing.assert_allclose(
            1200 * np.log2(output.pitch_track / hertz_T), cents_off, atol=2.0
        )


def test_sources_store_the_pitch_grid_and_default_to_crepes() -> None:
    source = StreamSource(kind="pitch", dim=NUM_BINS + 1, covered=1, pitch_bins=BINS)
    sources = Sources(
        corpus="c", caches=[], clips=1, hours=0.0, examples=1, held_out=1, teachers=[],
        streams={"p.salience": source},
    )  # fmt: skip
    fields = json.loads(json.dumps(dataclasses.asdict(sources)))
    kept = Sources.from_fields(fields).streams["p.salience"]
    assert kept.as_stream("p.salience", StreamConfig()).pitch_bins == BINS
    del fields["streams"]["p.salience"]["pitch_bins"]
    old = Sources.from_fields(fields).streams["p.salience"].as_stream("p.salience", StreamConfig())
    assert old.pitch_bins.cents_per_bin == 20.0


def test_report_picture_and_demo_share_paired_tracks() -> None:
    """With two functions, report and evaluation showed different salience."""
    assert predictions.paired_tracks is pictures.paired_tracks is head_tracks.paired_tracks
