"""Files for other programs: splats, meshes and points in the formats that viewers and editors read."""
