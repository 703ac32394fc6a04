"""What pruning learns from calibration text: ODP's thresholds, OTP's routers."""

from compress.pruning.thresholds import protection_quantile, rank_thresholds

__all__ = ["protection_quantile", "rank_thresholds"]
