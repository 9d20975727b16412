"""Other libraries' interfaces, so that scripts written for them run on petune."""
