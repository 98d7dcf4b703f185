"""What has parameters and serves more than one method."""
