"""The audio experts: each adapter owns one model and turns waveforms into frame-level targets."""
