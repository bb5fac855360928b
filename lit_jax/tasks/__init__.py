"""What families of networks are trained for, one file each."""
