"""Connected components of class activation maps as instances; docs/methods/cam_instances.md."""
