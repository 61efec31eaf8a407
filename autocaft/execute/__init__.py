"""Where steps run: in processes of this machine."""
